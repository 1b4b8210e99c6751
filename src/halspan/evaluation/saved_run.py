"""The files of a finished run, read as data because the folder is not trusted."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from halspan.core.checks import show
from halspan.core.errors import ConfigError
from halspan.models.folder.safe_files import read_json

_OF_OTHERS = ("wandb",)  # folders that other libraries fill with links: halspan reads and writes nothing there
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
    """The fields of `split.json` that are read; the file holds more."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]  # pydantic's own way

    taxonomy: Annotated[list[_Name], Field(min_length=1)]
    source: _Source
    generators: _Generators
    parts: _Parts
    texts: NotRequired[_KnownTexts]
    backbone: NotRequired[_Backbone]
    contents: NotRequired[_Contents]


def check_inside(folder: Path) -> None:
    """Require that a run's folder holds only files and folders, and no link that leads out of it.

    Files are then written into the folder only, and read from it only.

    Raises:
        ConfigError: It holds something else; the message names the file.
    """
    inside = Path(os.path.realpath(folder))
    for path in _entries(folder):
        real = Path(os.path.realpath(path))
        if path.is_symlink() and not real.is_relative_to(inside):
            raise ConfigError(f"{path}: is a link out of the run's folder, to {real}; put there what it leads to")
        if path.is_symlink() and not real.exists():
            raise ConfigError(f"{path}: is a link that leads nowhere; remove it")
        if real.exists() and not stat.S_ISREG(real.stat().st_mode) and not real.is_dir():
            raise ConfigError(f"{path}: is not a file that can be read; a run's folder holds files only: remove it")


def check_results(folder: Path) -> None:
    """Require that results stay in a folder that a command chose by itself, beside what may belong to others.

    Raises:
        ConfigError: The folder is a link, or `check_inside` refuses it.
    """
    if folder.is_symlink():
        raise ConfigError(
            f"to: {folder}, where the results go, is a link to {os.path.realpath(folder)}; give a folder with to=... "
            "(--to), or remove the link"
        )
    check_inside(folder)


def _entries(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))
        if Path(place) == folder:
            folders[:] = [name for name in folders if name not in _OF_OTHERS]


def read_split(file: Path) -> dict[str, Any]:
    """Read `split.json`.

    Raises:
        ConfigError: The file cannot be read, or is not one that a run writes; the message names file and problem.
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
        ConfigError: The file cannot be read, or is something else; the message names it.
    """
    try:
        record = read_json(file)
        json.dumps(record, ensure_ascii=False).encode()  # halves of surrogate pairs cannot be written again
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); restore it") from None
    except ValueError as error:
        raise ConfigError(f"{file.parent}: {error}; get the folder again from where you trust it") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{file}: holds {show(record)}, not an object; restore the file")
    return record
