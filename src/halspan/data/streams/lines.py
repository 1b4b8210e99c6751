"""Files of lines, plain or compressed: read as bytes from any position, and written whole."""

import errno
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

from halspan.core.files import open_regular

COMPRESSED = ".gz"
DASH = Path("-")  # standard input or output
STDIN = Path("standard input")  # name in messages, in the place of a file
_PIECE = 2**20  # bytes


def is_compressed(path: Path) -> bool:
    """Return whether the name of a file says that it is compressed."""
    return path.suffix == COMPRESSED


def without_suffixes(path: Path) -> Path:
    """Return a path without `.gz` and the suffix before it: `a/b` for `a/b.jsonl.gz` and for `a/b.jsonl`.

    >>> without_suffixes(Path("scored.jsonl.gz")).name
    'scored'
    """
    return (path.with_suffix("") if is_compressed(path) else path).with_suffix("")


@contextmanager
def open_lines(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; gzip is unpacked on the way, in constant memory.

    Raises:
        OSError: The file cannot be read, see `open_regular`, or is not a complete gzip file; `strerror` says which.
    """
    with open_regular(path) as file:
        yield io.BufferedReader(_Unpacked(file)) if is_compressed(path) else file


@contextmanager
def create_lines(path: Path, *, compressed: bool) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; equal bytes make equal files, compressed or not."""
    with path.open("wb") as file:
        if not compressed:
            yield file
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:  # no name and time: equal files
            yield packed  # type: ignore[misc]  # it writes bytes as any file does


def compress(source: Path, target: Path) -> None:
    """Write the bytes of a file, compressed, to another."""
    with source.open("rb") as lines, create_lines(target, compressed=True) as packed:
        copyfileobj(lines, packed, _PIECE)


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a gzip file; damage is an `OSError` like any other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = gzip.GzipFile(fileobj=file, mode="rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # a memoryview is what BufferedReader gives
        try:
            data = self._file.read1(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise OSError(errno.EINVAL, f"it is not a whole gzip file: {error}") from None
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)  # gzip reads from the beginning on every backward seek
        except (OSError, EOFError, zlib.error) as error:
            raise OSError(errno.EINVAL, f"it is not a whole gzip file: {error}") from None

    def tell(self) -> int:
        return self._file.tell()
