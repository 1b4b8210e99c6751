"""How the threads of a computation wait for each other."""

import os

# of GNU's OpenMP, which torch has on Linux, and of LLVM's and Intel's, which it has elsewhere
_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def keep_threads_from_spinning() -> None:
    """Let threads that wait sleep, unless the environment says how they wait; works before torch is imported only.

    A thread that spins takes the core from the one it waits for where a machine has other work
    (`experiments/review/threads.md`).
    """
    if not os.environ.keys() & _SLEEP.keys():
        os.environ.update(_SLEEP)
