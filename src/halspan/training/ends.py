"""How a run ends before it is done: for want of disk or memory, or by a signal; each says in one line what to do."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from halspan.core.errors import ResourceError
from halspan.training.interruption import Interrupted
from halspan.training.rundir import RunDirectory

_NO_SPACE = {errno.ENOSPC: "the disk is full", errno.EFBIG: "the largest size of a file is reached"}
if hasattr(errno, "EDQUOT"):
    _NO_SPACE[errno.EDQUOT] = "the disk quota is used up"
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")  # safetensors
# what torch, its allocators, readers of weights and its data loader say
_NO_MEMORY = re.compile(
    r"out of memory|not enough memory|allocate memory|bad_alloc|killed by signal: Killed|shared memory", re.IGNORECASE
)
_SMALLER = (
    "lower trainer.rows_per_pass or trainer.captions_per_row, or end other programs; plan=true shows what the run needs"
)


@contextmanager
def explained_ends(run: RunDirectory, *, can_resume: bool) -> Iterator[None]:
    """Say of what ends the block early what it means for a run, and how to go on.

    Args:
        run: what is trained or judged in the block.
        can_resume: whether what is begun here goes on with resume=true.

    Raises:
        ResourceError: the disk is full or memory does not suffice; names the file or the memory, and what to do.
        Interrupted: a signal came; `how_to_go_on` says how the run does.
    """
    try:
        yield
    except Interrupted as end:
        if can_resume and run.is_run and run.last.exists():
            end.how_to_go_on = "the same command with resume=true goes on from last.ckpt"
        raise
    except Exception as error:
        is_begun = can_resume and run.is_run
        again = "the same command with resume=true goes on" if is_begun else "the same command starts again"
        if reason := _NO_SPACE.get(_errno(error)):
            where = getattr(error, "filename", None) or run.path
            raise ResourceError(f"{where}: cannot be written: {reason}; make room there, then {again}") from error
        if _is_memory_short(error):
            raise ResourceError(
                f"the memory of {'the GPU' if 'CUDA' in str(error) else 'this machine'} does not suffice "
                f"({_first_words(error)}); {_SMALLER}; then {again}"
            ) from error
        raise


def _errno(error: Exception) -> int:
    said = _RUST_ERRNO.search(str(error))
    return error.errno or 0 if isinstance(error, OSError) else int(said[1]) if said else 0


def _is_memory_short(error: Exception) -> bool:
    if isinstance(error, MemoryError) or _errno(error) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def _first_words(error: BaseException) -> str:
    """Shorten what a library says to its first sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.split(r"(?<=[.!]) ", re.sub(r"^\[enforce fail at [^]]*\]\s*\.?\s*", "", lines[0]))[0].rstrip(". ")[:200]
