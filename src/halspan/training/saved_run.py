"""What a run has left in its folder, read as data: the folder may come from somebody else."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from halspan.core.checks import show
from halspan.core.errors import ConfigError
from halspan.models.artifacts import read_json

_OF_OTHERS = ("logs", "wandb")  # folders that other libraries fill: halspan reads nothing there
_Name = Annotated[str, Field(min_length=1)]


class _Part(TypedDict):
    captions: list[str]
    images: list[str]


class _Parts(TypedDict):
    train: _Part
    val: _Part
    test_seen: _Part
    test_heldout: _Part


class _Generators(TypedDict):
    train: list[str]
    held_out: list[str]


class _Texts(TypedDict):
    captions: list[str]
    sentences: list[str]


class _KnownTexts(TypedDict):
    train: NotRequired[_Texts]


class _Source(TypedDict):
    path: NotRequired[str]


class _Contents(TypedDict):
    files: str
    captions: dict[str, Annotated[str, Field(pattern=r"^\S+ \S+ \S+$")]]  # three hashes of a caption


class _Backbone(TypedDict):
    commit: str | None
    fingerprint: str


class _Split(TypedDict):
    """What is read of `split.json`; it holds more, which nothing reads."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]  # pydantic's own way

    taxonomy: Annotated[list[_Name], Field(min_length=1)]
    source: _Source
    generators: _Generators
    parts: _Parts
    texts: NotRequired[_KnownTexts]
    backbone: NotRequired[_Backbone]
    contents: NotRequired[_Contents]


def check_inside(folder: Path) -> None:
    """Require that a run's folder holds files and folders alone, and no link that leads out of it.

    What is written into the folder then stays in it, and what is read comes from it.

    Raises:
        ConfigError: it does not; names the file.
    """
    inside = Path(os.path.realpath(folder))
    for path in _entries(folder):
        real = Path(os.path.realpath(path))
        if path.is_symlink() and not real.is_relative_to(inside):
            raise ConfigError(f"{path}: is a link out of the run's folder, to {real}; put there what it leads to")
        if real.exists() and not stat.S_ISREG(real.stat().st_mode) and not real.is_dir():
            raise ConfigError(f"{path}: is not a file that can be read; a run's folder holds files only: remove it")


def _entries(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))
        if Path(place) == folder:
            folders[:] = [name for name in folders if name not in _OF_OTHERS]


def read_split(file: Path) -> dict[str, Any]:
    """Read `split.json`.

    Raises:
        ConfigError: it cannot be read, or is not what a run writes; names the file and what is wrong.
    """
    record = read_record(file)
    try:
        TypeAdapter(_Split).validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{file}: {place}: {show(first['input'])} is not possible ({first['msg']}); restore the file"
        ) from None
    return record


def read_record(file: Path) -> dict[str, Any]:
    """Read a JSON object of a reasonable size.

    Raises:
        ConfigError: it cannot be read, or is something else; names the file.
    """
    try:
        record = read_json(file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); restore it") from None
    except ValueError as error:
        raise ConfigError(f"{file.parent}: {error}; get the folder again from where you trust it") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{file}: holds {show(record)}, not an object; restore the file")
    return record
