"""Safetensors checkpoints of one or more files: headers are read first, each weight when it is used."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers.utils import cached_file

from halspan.models.folder.safe_files import plain_name, read_header, read_json

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

_SAMPLE = 4096  # bytes of each tensor in the fingerprint
_READABLE = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}  # safetensors' names; others are quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor that is still in its file.

    Attributes:
        file: A safetensors file.
        name: Name of the tensor in the file.
        shape: Shape of the tensor.
        dtype: Type in safetensors' notation, such as `BF16`.
        start: Its first byte in the file.
        stop: The byte after its last one.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int

    def __getitem__(self, index: object) -> Tensor:
        """Read the tensor, or a part of it.

        The file is mapped into memory only as long as the tensor lives, so that pages of other tensors are released.
        """
        with safe_open(self.file, framework="pt") as tensors:
            read: Tensor = tensors.get_slice(self.name)[index]
        return read


def open_checkpoint(source: str, revision: str | None) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint by name; only headers are read, and shards of a hub id downloaded.

    Args:
        source: Local folder or hub id.
        revision: Commit, tag or branch of a hub id.

    Raises:
        OSError: A file is missing.
        ValueError: A file is damaged, the index does not match the files or names one elsewhere, or the type of a
            weight is not a plain number.
    """
    tensors: dict[str, StoredTensor] = {}
    files, promised = _find_files(source, revision)
    for file in files:
        tensors |= read_tensors(file)
    if absent := sorted(promised - tensors.keys()):
        raise ValueError(
            f"{INDEX} names {len(absent)} weights that are in none of the {len(files)} shards, such as {absent[0]}"
        )
    return tensors


def fingerprint(source: str, revision: str | None) -> str:
    """Return a fingerprint of a checkpoint that differs from that of every other one, other revisions included.

    Args:
        source: Local folder or hub id.
        revision: Commit, tag or branch of a hub id.

    Returns:
        SHA-256, in hexadecimal, of the configuration and of each tensor's name, type, shape and first 4,096 bytes.

    Raises:
        OSError: A file is missing.
        ValueError: As for `open_checkpoint`.
    """
    digest = sha256(_find(source, CONFIG, revision).read_bytes())
    for name, tensor in sorted(open_checkpoint(source, revision).items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} ".encode())
        with tensor.file.open("rb") as file:
            file.seek(tensor.start)
            digest.update(file.read(min(_SAMPLE, tensor.stop - tensor.start)))
    return digest.hexdigest()


def commit_of(source: str, revision: str | None) -> str | None:
    """Return the commit that a revision of a hub id stands for on this machine; None for a local folder."""
    snapshot = _find(source, CONFIG, revision).parent
    is_of_hub = snapshot.parent.name == "snapshots" and not Path(source).is_dir()
    return snapshot.name if is_of_hub else None


def checkpoint_files(folder: Path) -> list[Path]:
    """List the files from which a local checkpoint is loaded.

    Raises:
        OSError: A file is missing.
        ValueError: The index names a file elsewhere.
    """
    files = [*_find_files(str(folder), None)[0], folder / CONFIG, folder / INDEX, folder / "generation_config.json"]
    return [file for file in files if file.is_file()]


def read_tensors(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file by name; only its header is read.

    Raises:
        OSError: The file is missing.
        ValueError: The file is damaged, or the type of a weight is not a plain number.
    """
    entries, _ = read_header(file)
    stored = {
        name: StoredTensor(
            file=file, name=name, shape=entry.shape, dtype=entry.dtype, start=entry.start, stop=entry.stop
        )
        for name, entry in entries.items()
    }
    if strange := sorted(name for name, tensor in stored.items() if tensor.dtype not in _READABLE):
        raise ValueError(
            f"{file.name} stores {len(strange)} weights as {stored[strange[0]].dtype}, such as {strange[0]}: it is "
            "already quantized; give the checkpoint in 16 or 32 bits"
        )
    return stored


def _find_files(source: str, revision: str | None) -> tuple[list[Path], set[str]]:
    """Return the files with weights, and the names of the weights in the index."""
    index = _find_optional(source, INDEX, revision)
    if index is None:
        return [_find(source, WHOLE, revision)], set()
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{INDEX} has no weight_map, so it names no files")
    names = sorted({plain_name(name, INDEX) for name in places.values()})
    return [_find(source, name, revision) for name in names], set(places)


def _find(source: str, name: str, revision: str | None) -> Path:
    if Path(source).is_dir():
        path = Path(source, name)
        if not path.is_file():
            raise FileNotFoundError(f"{name} is missing in {source}")
        return path
    return Path(cached_file(source, name, revision=revision))


def _find_optional(source: str, name: str, revision: str | None) -> Path | None:
    if Path(source).is_dir():
        path = Path(source, name)
        return path if path.is_file() else None
    from halspan.models.private.transformers import find_optional_file  # imports the quantizers

    return find_optional_file(source, name, revision)
