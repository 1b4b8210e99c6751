"""Files: opened only if they are regular, and replaced in one step, so that no reader sees half a file."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from halspan.core.errors import DataError

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # of `replacing`
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path, *, follows_links: bool = True) -> BufferedReader:
    """Open a regular file for reading bytes; a pipe or a device, which may have no end, is refused.

    Args:
        path: The file.
        follows_links: Whether it may be a link; in a folder of many people, one might lead to a file that only its
            reader may read.

    Raises:
        OSError: The file cannot be opened, or is a folder, a pipe, a socket or a device; `strerror` says which.
    """
    if not follows_links and path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and nothing is read through one", str(path))
    flags = os.O_RDONLY | (0 if follows_links else getattr(os, "O_NOFOLLOW", 0))
    try:
        _check_regular(path, path.stat())
        descriptor = _open(path, flags)  # the path may be another file by now
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    return os.fdopen(descriptor, "rb")


def open_appending(path: Path, *, buffering: int = -1) -> BinaryIO:
    """Open a file for reading bytes and for adding some; it is made if need be.

    Args:
        path: The file.
        buffering: As of `open`; 0 for none.

    Raises:
        OSError: The file cannot be opened, or is a link, which might lead to a file of another person, or is no
            regular file; `strerror` says which.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and nothing is written through one", str(path))
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(_open(path, flags), "ab+", buffering)


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises:
        OSError: As for `open_regular`.
        ValueError: The file is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"has {size:,} bytes, more than the {most:,} that are read")
        return file.read(size)  # for a growing file, only its content so far


@contextmanager
def replacing(path: Path, *, kept: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block succeeds, the file there replaces `path`.

    The folder is created if necessary. If the block raises, `path` stays as it was.

    Args:
        path: File to write.
        kept: Name beside it under which the file that is replaced stays; None to remove it. A process that is killed
            in between leaves `kept` without `path`.

    Raises:
        OSError: The file cannot be written; `filename` is `path` where the system names no file (a full disk).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # otherwise the target of a link with that name would be overwritten
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        if kept is not None and path.exists():
            path.replace(kept)
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left of files that they were replacing, in a folder and below it.

    No other process may be writing there.
    """
    for path in folder.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


@contextmanager
def written_to(option: str, path: Path) -> Iterator[None]:
    """Report a file or folder that the block cannot write by the option or key that named it, with the reason.

    Raises:
        DataError: the block raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{option}: {path} cannot be written ({error.strerror}); choose another place") from None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file in one step; NaN and infinity are errors (ValueError)."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _open(path: Path, flags: int) -> int:
    """Open a regular file; opening a pipe must not wait, so what was opened is looked at."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o666)
    try:
        _check_regular(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
