"""Files of lines, plain or compressed: read as bytes from any place on, and written whole."""

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
STDIN = Path("standard input")  # in the place of a file, wherever one is named
_PIECE = 2**20  # bytes


def is_compressed(path: Path) -> bool:
    """Return whether a file is compressed, by its name."""
    return path.suffix == COMPRESSED


def without_suffixes(path: Path) -> Path:
    """Return a path without `.gz` and what stands before it: `a/b` for `a/b.jsonl.gz` and for `a/b.jsonl`."""
    return (path.with_suffix("") if is_compressed(path) else path).with_suffix("")


@contextmanager
def open_lines(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; what is compressed with gzip is unpacked on the way, in constant memory.

    Raises:
        OSError: the file cannot be read, see `open_regular`, or is not a whole gzip file; `strerror` says which.
    """
    with open_regular(path) as file:
        yield io.BufferedReader(_Unpacked(file)) if is_compressed(path) else file


@contextmanager
def create_lines(path: Path, *, compressed: bool) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; the same bytes make the same file, compressed or not."""
    with path.open("wb") as file:
        if not compressed:
            yield file
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:  # neither a name nor a time
            yield packed  # type: ignore[misc]  # it writes bytes as any file does


def compress(source: Path, target: Path) -> None:
    """Write the bytes of a file, compressed, to another."""
    with source.open("rb") as lines, create_lines(target, compressed=True) as packed:
        copyfileobj(lines, packed, _PIECE)


class _Unpacked(io.RawIOBase):
    """The bytes that a gzip file holds; damage is an `OSError` like any other."""

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
            return self._file.seek(offset, whence)  # from the beginning on: gzip has no other way
        except (OSError, EOFError, zlib.error) as error:
            raise OSError(errno.EINVAL, f"it is not a whole gzip file: {error}") from None

    def tell(self) -> int:
        return self._file.tell()
