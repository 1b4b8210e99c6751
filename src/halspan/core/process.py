"""What is known of this process before other imports: its place in a job, how threads wait, what warnings say."""

import logging
import os
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Launcher:
    """A program that starts processes which train together, and the variables by which each finds its place.

    Attributes:
        title: Name of the program.
        rank: Variable with the 0-based number of the process.
        local_rank: Variable with its number on its machine.
        count: Variable with the number of all processes.
    """

    title: str
    rank: str
    local_rank: str
    count: str


TORCHRUN = Launcher("torchrun", "RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Its variables are also those that processes get which training starts by itself."""
SLURM = Launcher("SLURM", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")
SUBMITIT = Launcher("submitit", "SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_LOCALID", "SUBMITIT_LOCAL_NTASKS")
"""Of submitit's local executor; its jobs on a cluster have the variables of SLURM."""


def find_launcher() -> Launcher | None:
    """Return what started this process together with others; None where it is alone."""
    for launcher in (TORCHRUN, SLURM, SUBMITIT):
        by_hand = launcher is SLURM and os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
        if not by_hand and launcher.rank in os.environ and _read_number(launcher.count, 1) > 1:
            return launcher
    return None


def process_count() -> int:
    """Return the number of processes that work together with this one, itself included."""
    return 1 if (launcher := find_launcher()) is None else _read_number(launcher.count, 1)


def process_rank() -> int:
    """Return the 0-based number of this process among those that work together; 0 where it is alone."""
    return 0 if (launcher := find_launcher()) is None else _read_number(launcher.rank, 0)


def is_first_process() -> bool:
    """Return whether this process, of those that work together, is the one that writes files and reports."""
    return process_rank() == 0


def speaker() -> str:
    """Return what a line of this process begins with: nothing where it is alone."""
    return f"[process {process_rank() + 1} of {process_count()}] " if process_count() > 1 else ""


def _read_number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else otherwise
