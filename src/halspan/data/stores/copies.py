"""Copies of inputs from object stores: made once, and then read like any other file."""

from collections.abc import Callable
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from halspan.core.files import remove_unfinished, written_to
from halspan.data.stores.access import cache_folder, download, read_stamp
from halspan.data.stores.paths import Place

_DIGEST = 20  # hexadecimal digits


def fetch(place: Place, on_bytes: Callable[[int, int], None] | None = None) -> Path:
    """Return a file of this machine with the content of an input: the input itself, or the copy of an object.

    A copy is kept under the object's address, size and version, so that another content is another file.

    Args:
        place: File or object.
        on_bytes: Function that is called with the number of bytes that are copied so far, and that of all.

    Raises:
        ConfigError: The package for the store is not installed.
        DataError: There is no object, or the copy cannot be written.
        ResourceError: The store cannot be used.
    """
    if isinstance(place, Path):
        return place
    stamp = read_stamp(place)
    folder = cache_folder() / "inputs" / digest_of(str(place), *map(str, astuple(stamp)))
    copy = folder / place.name
    if not copy.exists():
        with written_to("XDG_CACHE_HOME", folder):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            remove_unfinished(folder)  # what a killed process has left may be large
            if not copy.exists():  # another process has made it meanwhile
                download(place, copy, on_bytes)
    return copy


def digest_of(*texts: str) -> str:
    """Return a name for a folder of the cache."""
    return sha256("\0".join(texts).encode()).hexdigest()[:_DIGEST]
