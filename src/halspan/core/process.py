"""Process-wide settings that must precede other imports: how threads wait, and which warnings are ignored."""

import logging
import os

# of GNU's OpenMP, which torch uses on Linux, and of LLVM's and Intel's, which it uses elsewhere
# A thread waits some microseconds before it sleeps: without that, small models train at half the speed.
_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}


def keep_threads_from_spinning() -> None:
    """Make waiting threads sleep, unless the environment sets how they wait; call it before importing torch.

    On a busy machine, a spinning thread takes the core from the thread it waits for
    (`experiments/review/threads.md`).
    """
    if not os.environ.keys() & _SLEEP.keys():
        os.environ.update(_SLEEP)


# by logger: a kernel that is fetched even if it is not used, and a key of a published configuration
_NOISE = {"bitsandbytes.backends.cpu.ops": "gemm_4bit_forward", "transformers.modeling_rope_utils": "high_freq_factor"}


def silence_noise() -> None:
    """Hide these warnings from every handler; call it before the libraries are imported, as one warns on import."""
    for name in _NOISE:
        logging.getLogger(name).addFilter(is_worth_showing)


def is_worth_showing(record: logging.LogRecord) -> bool:
    """Return whether a record is not one of these warnings."""
    return _NOISE.get(record.name, "\0") not in str(record.msg)
