"""Early ends of a run: too little disk or memory, or a signal; each message says in one line what to do."""

import errno
import multiprocessing
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halspan.core.errors import HalspanError, ResourceError
from halspan.core.process import process_count
from halspan.training.interruption import Interrupted
from halspan.training.rundir import RunDirectory

_NO_SPACE = {errno.ENOSPC: "the disk is full", errno.EFBIG: "the largest size of a file is reached"}
if hasattr(errno, "EDQUOT"):
    _NO_SPACE[errno.EDQUOT] = "the disk quota is used up"
_NO_FOLDER = {  # of files in the run's folder, which could be written when the run began
    errno.EROFS: "its disk is read-only now",
    errno.EACCES: "it may not be written any more",
    errno.EPERM: "it may not be written any more",
    errno.ENOENT: "its folder is gone",
    errno.EIO: "its disk reports an error",
    errno.ESTALE: "its disk is not there any more",
}
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")  # safetensors
# messages of torch, its allocators, its readers of weights and its data loader
_NO_MEMORY = re.compile(
    r"out of memory|not enough memory|allocate memory|bad_alloc|killed by signal: Killed|shared memory", re.IGNORECASE
)
# messages of the exchange between processes (gloo, NCCL) where one of them is gone or hangs
_NO_ANSWER = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|Timed out", re.IGNORECASE)
_NO_DATA = re.compile(r"DataLoader timed out after (\d+) seconds")
_SMALLER = (
    "lower trainer.tokens_per_pass or trainer.captions_per_row, or end other programs; plan=true shows what the run "
    "needs"
)


@contextmanager
def explained_ends(run: RunDirectory, *, to_go_on: str | None) -> Iterator[None]:
    """Explain an early end of the block: what it means for the run, and how to continue.

    Args:
        run: Folder of the run in the block.
        to_go_on: Command that continues the work of the block; None where it can only start again.

    Raises:
        ResourceError: The disk is full or memory is not sufficient; the message names file or memory, and what to do.
        Interrupted: A signal came; `how_to_go_on` says how to continue the run.
    """
    try:
        yield
    except Interrupted as end:
        if to_go_on and run.is_run and run.has_checkpoint:
            end.how_to_go_on = f"{to_go_on} continues from last.ckpt"
        raise
    except Exception as error:
        if isinstance(error, HalspanError):
            raise
        again = f"{to_go_on} continues" if to_go_on and run.is_run else "the same command starts again"
        if reason := _NO_SPACE.get(_errno(error)):
            where = getattr(error, "filename", None) or run.path
            raise ResourceError(f"{where}: cannot be written: {reason}; make room there, then {again}") from error
        if (reason := _NO_FOLDER.get(_errno(error))) and _is_inside(run, error):
            raise ResourceError(f"{run.path}: cannot be written: {reason}; mend that, then {again}") from error
        if hung := _NO_DATA.search(str(error)):
            _kill_workers()
            raise ResourceError(
                f"a process that reads data gave nothing for {hung[1]} s: storage may hang, or an image take too long; "
                f"see whether the files of data.path can be read, or lower trainer.workers; then {again}"
            ) from error
        if is_memory_short(error):
            raise ResourceError(
                f"the memory of {'the GPU' if 'CUDA' in str(error) else 'this machine'} does not suffice "
                f"({_first_words(error)}); {_SMALLER}; then {again}"
            ) from error
        if process_count() > 1 and isinstance(error, RuntimeError) and _NO_ANSWER.search(str(error)):
            raise ResourceError(
                f"another process of this job has ended or does not answer ({_first_words(error)}); its own messages "
                f"may say why; {again}"
            ) from error
        raise


def _is_inside(run: RunDirectory, error: Exception) -> bool:
    """Return whether an error is about a file in the run's folder."""
    file = getattr(error, "filename", None)
    return isinstance(file, str) and Path(file).absolute().is_relative_to(run.path.absolute())


def _kill_workers() -> None:
    """Kill processes that read data; they leave other signals to this process, whose exit would wait for them."""
    for worker in multiprocessing.active_children():
        worker.kill()


def _errno(error: Exception) -> int:
    said = _RUST_ERRNO.search(str(error))
    return error.errno or 0 if isinstance(error, OSError) else int(said[1]) if said else 0


def is_memory_short(error: Exception) -> bool:
    """Return whether an error of Python, torch, its allocators or its data loader means too little memory."""
    if isinstance(error, MemoryError) or _errno(error) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def _first_words(error: BaseException) -> str:
    """Shorten a library's message to its first sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = re.sub(r"^\[(enforce fail at|/)[^]]*\]\s*\.?\s*", "", lines[0])  # without the place in torch's source
    return re.split(r"(?<=[.!]) ", said)[0].rstrip(". ")[:200]
