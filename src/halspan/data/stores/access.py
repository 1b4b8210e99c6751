"""What is read and written in object stores; whatever goes wrong there is one of two errors.

What is not there is a `DataError`. Everything else (refused, unreachable, no credentials) is a `ResourceError`: it is
not the fault of a record, so the run ends and can be resumed.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from halspan.core.errors import ConfigError, DataError, ResourceError, first_lines
from halspan.core.files import replacing
from halspan.data.stores.paths import PACKAGES, Place, StorePath

MOST_BYTES = 2**28  # of an object that is read into memory, such as an image
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "blob_id", "sha", "oid", "LastModified", "mtime", "last_modified")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells the content of an object from other content under the same address.

    Attributes:
        size: Bytes.
        version: What the store says of it: hash, generation, time.
    """

    size: int
    version: str


def read_stamp(path: StorePath) -> Stamp:
    """Return the size and the version of an object.

    Raises:
        ConfigError: The package for this store is not installed.
        DataError: There is no object.
        ResourceError: The store cannot be used.
    """
    with _reported(path):
        info = _info(path)
        if info["type"] != "file":
            raise FileNotFoundError
        return Stamp(int(info["size"]), " ".join(f"{name}={info[name]}" for name in _VERSIONS if info.get(name)))


def exists(place: Place) -> bool:
    """Return whether there is a file or an object.

    Raises:
        ConfigError: The package for this store is not installed.
        ResourceError: The store cannot be used.
    """
    if isinstance(place, Path):
        return place.exists()
    try:
        read_stamp(place)
    except DataError:
        return False
    return True


def check_folder(path: StorePath) -> None:
    """Refuse a bucket that is not there, or a folder without anything in it.

    Who may read objects may not always list them; then nothing is refused.

    Raises:
        ConfigError: The package for this store is not installed.
        DataError: There is nothing.
        ResourceError: The store cannot be used.
    """
    with _reported(path), suppress(PermissionError):
        _info(path)


def list_names(folder: StorePath) -> list[str]:
    """Return the names of what is in a folder, in order; none where there is no folder.

    Raises:
        ResourceError: The store cannot be used.
    """
    try:
        with _reported(folder):
            return sorted(
                name.rstrip("/").rpartition("/")[2] for name in _fresh(folder).ls(str(folder.key), detail=False)
            )
    except DataError:
        return []


def read_bytes(path: StorePath, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of an object.

    Raises:
        DataError: There is no object, or it has more than `most` bytes.
        ResourceError: The store cannot be used.
    """
    with _reported(path):
        store = _open(path)
        try:
            data: bytes = store.cat_file(str(path.key), start=0, end=most + 1)
        except OSError as error:  # some stores cannot give the beginning of an empty object
            if isinstance(error, FileNotFoundError | PermissionError) or store.info(str(path.key))["size"]:
                raise
            return b""
    if len(data) > most:
        raise DataError(f"{path}: is larger than {most:,} bytes; scale it down")
    return data


def download(path: StorePath, target: Path, on_bytes: Callable[[int, int], None] | None = None) -> None:
    """Copy an object to a file, which appears when it is whole.

    Args:
        path: The object.
        target: The file.
        on_bytes: Function that is called with the number of bytes that are copied so far, and that of all.

    Raises:
        DataError: There is no object, or the file cannot be written.
        ResourceError: The store cannot be used, or the object was replaced meanwhile.
    """
    stamp = read_stamp(path)
    hooks = {} if on_bytes is None else {"": lambda size, value, **_: on_bytes(value, size or stamp.size)}
    callback = fsspec.Callback(hooks=hooks)
    try:
        with replacing(target) as temporary:
            with _reported(path):
                _open(path).get_file(str(path.key), str(temporary), callback=callback)
            if temporary.stat().st_size != stamp.size or read_stamp(path) != stamp:
                raise ResourceError(f"{path}: was replaced while it was read; the same command again reads it anew")
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror}); make room there") from None


def upload(source: Path, path: StorePath) -> None:
    """Copy a file to an object, which appears when it is whole.

    Raises:
        ResourceError: The store cannot be used.
    """
    with _reported(path, "written"):
        _open(path).put_file(str(source), str(path.key))
        if (size := _info(path)["size"]) != source.stat().st_size:
            raise OSError(f"{size} of {source.stat().st_size} bytes are there")


def remove(path: StorePath) -> None:
    """Remove an object, if there is one.

    Raises:
        ResourceError: The store cannot be used.
    """
    try:
        with _reported(path, "removed"):
            _open(path).rm_file(str(path.key))
    except DataError:
        return


def cache_folder() -> Path:
    """Return the folder of this machine for copies of inputs and for outputs that are not in their store yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "halspan"


def _open(path: StorePath) -> Any:
    """Return fsspec's file system of the store, with the settings and credentials of the user."""
    try:
        return fsspec.filesystem(path.scheme)
    except ImportError:
        raise ConfigError(
            f"{path}: {path.scheme}:// needs a package that is not installed; pip install {PACKAGES[path.scheme]}"
        ) from None


def _fresh(path: StorePath) -> Any:
    """Return the file system, which has forgotten what it saw in the store: others write there."""
    store = _open(path)
    store.invalidate_cache()
    return store


def _info(path: StorePath) -> Any:
    return _fresh(path).info(str(path.key))


@contextmanager
def _reported(path: StorePath, done: str = "read") -> Iterator[None]:
    """Report what goes wrong in the store; its clients raise errors of many classes."""
    try:
        yield
    except (ConfigError, DataError, ResourceError):
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: does not exist; correct the address, or create its bucket") from None
    except PermissionError as error:
        raise ResourceError(
            f"{path}: cannot be {done}: the store refuses it ({_reason(error)}); check credentials and permissions"
        ) from None
    except Exception as error:
        raise ResourceError(
            f"{path}: cannot be {done} ({_reason(error)}); check network and store, then --resume continues"
        ) from None


def _reason(error: Exception) -> str:
    return first_lines(error) or type(error).__name__
