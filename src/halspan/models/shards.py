"""Safetensors checkpoints of one file or many: headers are read first, and each weight when it is used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers.utils import cached_file

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_READABLE = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}  # in safetensors' words; others are quantised


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor that is still in its file.

    Attributes:
        file: a safetensors file.
        name: of the tensor in the file.
        shape: of the tensor.
        dtype: in safetensors' words, such as `BF16`.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def __getitem__(self, index: object) -> Tensor:
        """Read the tensor, or a part of it.

        The file is mapped into memory for as long as the tensor lives, and no longer, so that what has been read of
        other tensors does not stay.
        """
        with safe_open(self.file, framework="pt") as tensors:
            read: Tensor = tensors.get_slice(self.name)[index]
        return read


def open_checkpoint(source: str, revision: str | None) -> dict[str, StoredTensor]:
    """Find the tensors of a checkpoint; only headers are read, and shards of a hub id downloaded.

    Args:
        source: local folder or hub id.
        revision: commit, tag or branch of a hub id.

    Raises:
        OSError: a file is missing.
        ValueError: the index is not that of the files, or a weight is stored in a type that is no plain number.
        safetensors.SafetensorError: a file is damaged.
    """
    index = _find(source, INDEX, revision, is_optional=True)
    if index is None:
        whole = _find(source, WHOLE, revision)
        return _read_header(whole)  # type: ignore[arg-type]  # mandatory, so not None
    places: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    tensors: dict[str, StoredTensor] = {}
    names = sorted(set(places.values()))
    for file in [_find(source, name, revision) for name in names]:
        tensors |= _read_header(file)  # type: ignore[arg-type]
    if absent := sorted(places.keys() - tensors.keys()):
        raise ValueError(
            f"{INDEX} names {len(absent)} weights that are in none of the {len(names)} shards, such as {absent[0]}"
        )
    return tensors


def _find(source: str, name: str, revision: str | None, *, is_optional: bool = False) -> Path | None:
    path = Path(source, name)
    if Path(source).is_dir():
        if not path.is_file() and not is_optional:
            raise FileNotFoundError(f"{name} is missing in {source}")
        return path if path.is_file() else None
    found = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=not is_optional)
    return None if found is None else Path(found)


def _read_header(file: Path) -> dict[str, StoredTensor]:
    stored = {}
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  # no mapping
            part = tensors.get_slice(name)
            stored[name] = StoredTensor(
                file=file, name=name, shape=tuple(part.get_shape()), dtype=str(part.get_dtype())
            )
    if strange := sorted(name for name, tensor in stored.items() if tensor.dtype not in _READABLE):
        raise ValueError(
            f"{file.name} stores {len(strange)} weights as {stored[strange[0]].dtype}, such as {strange[0]}: it is "
            "quantised already; give the checkpoint in 16 or 32 bits"
        )
    return stored
