"""Checks of an untrusted folder: only JSON and safetensors may be in it, and they are checked before use."""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halspan.core.errors import ModelError
from halspan.core.files import read_bytes

SUFFIXES = (".json", ".safetensors", ".jinja", ".txt", ".md")  # all kinds of files in a detector's folder
MOST_JSON = 2**28  # bytes; a tokenizer of a million entries takes a quarter of it
MOST_HEADER = 100_000_000  # bytes, safetensors' own limit

_READ_BY_OTHERS = (".json", ".jinja", ".txt", ".model", ".safetensors")
_LENGTH = 8  # bytes at the start of a safetensors file, which say how long its header is
# Keys by which other tools choose code to import; a value that is not text, as in a vocabulary, chooses nothing.
_CHOOSE_CODE = ("_target_", "auto_map", "custom_pipelines", "custom_generate")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a safetensors header.

    Attributes:
        dtype: Type in safetensors' notation, such as `BF16`.
        shape: Shape of the tensor.
        start: Its first byte in the file.
        stop: The byte after its last one.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def refuse_run(folder: Path) -> None:
    """Refuse the folder of a run, which training writes, in place of the folder that export.py writes.

    Raises:
        ModelError: The folder is one of a run; the message has the command that exports it.
    """
    if (folder / "detector.json").exists() or not (folder / "config.yaml").is_file():
        return
    if (folder / "best.ckpt").is_file() or (folder / "last.ckpt").is_file():
        raise ModelError(
            f"detector: {folder} is a run, not an exported detector; export it first: python export.py run={folder} "
            f"to=exports/{folder.name}"
        )


def check_folder(folder: Path, *, blobs: Path | None = None) -> None:
    """Check every file of an untrusted folder before it is read.

    Names that start with a dot are skipped, because nothing reads them.

    Args:
        folder: Folder of a detector.
        blobs: Folder into which symbolic links may lead, too: the blobs next to the snapshots in the hub's cache.

    Raises:
        ModelError: There is a file of another kind than JSON, safetensors and text; a symbolic link leads out; a header
            claims more than its file has; or a JSON file names code to import.
    """
    try:
        for file in _files(folder):
            _check_place(file, folder, blobs)
            _check_content(file)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error.strerror}); restore it, or export again") from None


def check_backbone_folder(folder: Path) -> None:
    """Look at the files of a checkpoint that other libraries read whole, before they do; other files may be anything.

    Raises:
        ValueError: One is a pipe, a device or the like, or is larger than any such file; names it.
    """
    for file in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if file.suffix not in _READ_BY_OTHERS or not file.exists() or file.is_dir():
            continue
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{file.name} is not a file that can be read")
        if status.st_size > MOST_JSON and file.suffix != ".safetensors":
            raise ValueError(f"{file.name} has {status.st_size:,} bytes, more than the {MOST_JSON:,} that are read")


def find_kernels(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the keys of a configuration that would have transformers download code for a layer, with the code's id."""
    for item in _objects(value):
        for key, of in item.items():
            if str(key).endswith("_implementation"):
                names = of.values() if isinstance(of, dict) else (of,)
                yield from ((key, name) for name in names if isinstance(name, str) and "/" in name)


def read_json(file: Path) -> Any:
    """Read a JSON file of a reasonable size.

    Raises:
        OSError: The file cannot be read, or is a folder, a pipe or a device.
        ValueError: It is larger, not JSON, or names code to import; the message names the file.
    """
    try:
        data = read_bytes(file, MOST_JSON)
    except ValueError as error:
        raise ValueError(f"{file.name} {error}") from None
    try:
        value = json.loads(data.decode())
        chosen = next(_choices(value), None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not JSON ({' '.join(str(error).split())[:100]})") from None
    if chosen is not None:
        raise ValueError(f"{file.name} names code to import ({chosen[0]}: {chosen[1]!r:.80}), which halspan never does")
    return value


def read_header(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Read the header of a safetensors file, which must fit the size of the file.

    Returns:
        Its tensors by name, and its metadata.

    Raises:
        ValueError: It is not a complete safetensors file; the message names the file.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH), "little")
        if size < _LENGTH or length > min(size - _LENGTH, MOST_HEADER):
            raise ValueError(
                f"{file.name} is not a safetensors file, or is incomplete: it claims a header of {length:,} bytes, and "
                f"has {size:,} in all"
            )
        text = opened.read(length)
    try:
        header = json.loads(text)
        about = header.pop("__metadata__", {})
        entries = {name: _entry(of, _LENGTH + length) for name, of in header.items()}
        is_text = all(isinstance(value, str) for value in about.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"{file.name} is not a safetensors file: its header cannot be read") from None
    end = max((entry.stop for entry in entries.values()), default=_LENGTH + length)
    if end != size or not is_text or any(entry.start > entry.stop for entry in entries.values()):
        raise ValueError(f"{file.name} is incomplete or damaged: its tensors end at byte {end:,} of {size:,}")
    return entries, about


def plain_name(name: object, source: str) -> str:
    """Require that an index names a file in its own folder.

    Raises:
        ValueError: It names a file elsewhere, or one that is not a safetensors file.
    """
    if not isinstance(name, str) or name != os.path.basename(name) or "\\" in name or not name.endswith(".safetensors"):  # noqa: PTH119
        raise ValueError(f"{source} names {name!r:.100}, which is not a safetensors file in its folder")
    return name


def _entry(of: Mapping[str, Any], after: int) -> Entry:
    start, stop = of["data_offsets"]
    shape = tuple(int(length) for length in of["shape"])
    if min(start, stop, *shape, 0) < 0:
        raise ValueError
    return Entry(dtype=str(of["dtype"]), shape=shape, start=after + int(start), stop=after + int(stop))


def _files(folder: Path) -> Iterator[Path]:
    folders = [folder]  # a list, because folders may be nested deeper than calls can be
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir() and not path.is_symlink():
                folders.append(path)
            else:
                yield path


def _check_place(file: Path, folder: Path, blobs: Path | None) -> None:
    real = Path(os.path.realpath(file))  # unlike Path.resolve, it takes links that go in circles
    if not any(real.is_relative_to(os.path.realpath(root)) for root in (folder, blobs) if root is not None):
        raise ModelError(
            f"{file}: is a link out of the folder, to {real}; put the file itself there (a detector from the hub is "
            "loaded by its id)"
        )
    if not stat.S_ISREG(file.stat().st_mode):
        raise ModelError(f"{file}: is not a readable file; a detector's folder holds plain files only")
    if file.suffix not in SUFFIXES:
        raise ModelError(
            f"{file}: a detector's folder holds {', '.join(SUFFIXES)} alone, and {file.suffix or 'this'} may hold "
            "code that reading it would run; remove the file if you trust the rest, or export again"
        )


def _check_content(file: Path) -> None:
    try:
        if file.suffix == ".safetensors":
            read_header(file)
        if file.suffix == ".json":
            read_json(file)
    except ValueError as error:
        raise ModelError(f"{file.parent}: {error}; get the folder again from where you trust it") from None


def _choices(value: Any) -> Iterator[tuple[str, Any]]:
    """Find the places in a JSON value that would have other tools import code."""
    for item in _objects(value):
        yield from ((key, item[key]) for key in _CHOOSE_CODE if not isinstance(item.get(key), int | None))
    yield from find_kernels(value)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value, however deep."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
        if isinstance(item, dict | list):
            stack += item.values() if isinstance(item, dict) else item
