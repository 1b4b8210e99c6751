"""Entries as files: read memory-mapped and checked, written in one step, and bounded in size."""

import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from halspan.core.files import replacing

logger = logging.getLogger(__name__)

_STALE = 600  # seconds after which a temporary file belongs to a process that was killed; writing takes less than one
_GIB = 2**30


class Store:
    """A folder of entries, each of them a file of named tensors under the hash that identifies it.

    Processes on several machines may share a folder: an entry appears whole or not at all, and of two that are written
    under one name either is right. The sizes of all files are added up again after each 64th of the bound, so that
    several processes together exceed it by no more than that each.

    Args:
        folder: The folder; it is made when the first entry is written.
        gib: Size in GiB from which on nothing is written.
    """

    def __init__(self, folder: Path, *, gib: float) -> None:
        self._folder = folder
        self._limit = gib * _GIB
        self._room = 0.0  # until all files are looked at again
        self._is_closed = False

    def path(self, name: str) -> Path:
        """Return the file of an entry."""
        return self._folder / name[:2] / f"{name}.safetensors"

    def has(self, name: str) -> bool:
        """Return whether there is an entry; only `read` sees whether it is whole."""
        return self.path(name).exists()

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Read an entry; None where there is none. A damaged one is removed.

        The tensors lie in the file, which nothing may be written to.
        """
        path = self.path(name)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, RuntimeError, SafetensorError) as error:
            _remove(path, " ".join(str(error).split())[:200])
            return None
        if about != _about(name, tensors):
            _remove(path, "its content is not what was written")
            return None
        return tensors

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Write an entry, in the place of one of that name; return False where there is no room."""
        path = self.path(name)
        if self._is_closed or not self._has_room(sum(tensor.nbytes for tensor in tensors.values())):
            return False
        try:
            with replacing(path) as temporary:
                save_file(dict(tensors), temporary, _about(name, tensors))
        except (OSError, SafetensorError) as error:
            self._close(f"cannot be written to ({error})")
            return False
        return True

    def _has_room(self, size: int) -> bool:
        if size > self._room:
            left = self._limit - self._measure()
            if size > left:
                self._close(f"holds {self._limit / _GIB:g} GiB (trainer.keep_gib), or nearly so")
                return False
            self._room = max(size, min(left, self._limit / 64))
        self._room -= size
        return True

    def _close(self, reason: str) -> None:
        logger.warning("%s %s: no further features of images are kept", self._folder, reason)
        self._is_closed = True

    def _measure(self) -> int:
        """Return the bytes of all files, without those that a killed process left behind, which are removed."""
        total = 0
        for entry in _files(self._folder):
            try:
                status = entry.stat()
                if entry.name.endswith(".tmp") and time.time() - status.st_mtime > _STALE:
                    Path(entry.path).unlink()
                    continue
            except FileNotFoundError:  # another process was faster
                continue
            total += status.st_size
        return total


def _remove(path: Path, reason: str) -> None:
    """Remove a damaged entry; one that is gone already was removed or replaced by another process."""
    if path.exists():
        logger.warning("%s is damaged (%s): it is removed, and its image processed again", path, reason)
        path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    for part in folder.iterdir() if folder.is_dir() else ():
        if len(part.name) == 2 and part.is_dir():
            with os.scandir(part) as entries:
                yield from entries


def _about(name: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return what a file says of itself: its name, and a checksum of names, types, shapes and bytes in it."""
    checksum = 0
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        checksum = zlib.crc32(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return {"name": name, "crc32": f"{checksum:08x}"}
