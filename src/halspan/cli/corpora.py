"""The options for reading corpora that several console commands share."""

import sys
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halspan.core.errors import ConfigError
from halspan.data.readers.registry import PUBLISHED, READERS, find_published_reader, find_reader
from halspan.data.streams.lines import DASH

if TYPE_CHECKING:  # imported where they are used, to keep `halspan --help` fast
    from halspan.data.corpus import Corpus


AUTO = "auto"
"""The option for a format that is to be detected."""
_LINES = "jsonl"  # the only format that can be read from a stream


class OnProblem(StrEnum):
    """The response to a record or an image that cannot be used."""

    stop = "raise"
    skip = "skip"


class OnExtraKeys(StrEnum):
    """The response to keys that captions do not have."""

    stop = "raise"
    ignore = "ignore"


def _check_format(name: str) -> str:
    formats = [AUTO, *READERS.names()]
    if name not in formats:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, formats))}.")
    return name


FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        metavar="FORMAT",
        callback=_check_format,
        help=f"Format of the corpus: {', '.join([AUTO, *READERS.names()])}.",
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--images", help="Folder that relative image paths start from. Default: the corpus's folder."),
]
OnErrorOption = Annotated[
    OnProblem, typer.Option("--on-error", help="Stop at malformed records, or skip and count them.")
]
ExtraKeysOption = Annotated[
    OnExtraKeys,
    typer.Option("--extra-keys", help="Treat unknown keys of JSON Lines as malformed, or ignore them."),
]
MissingImageOption = Annotated[
    OnProblem,
    typer.Option("--missing-image", help="Stop at missing or unreadable images, or skip and count their captions."),
]


def load_corpus(
    path: Path | None,
    format_: str,
    images: Path | None,
    on_error: OnProblem,
    missing_image: OnProblem,
    *,
    min_images: float = 0,
    check_images: bool = True,
    extra_keys: OnExtraKeys = OnExtraKeys.stop,
) -> "Corpus":
    """Read a corpus with the reader of its format; with `check_images=False` images are not checked.

    Raises:
        ConfigError: There is no path and no published corpus, or the format cannot be read from a stream.
        DataError: The corpus cannot be found or used.
    """
    from halspan.data.readers.formats import detect_format
    from halspan.data.streams.lines import STDIN

    options: dict[str, Any] = {
        "images": images,
        "on_error": on_error.value,
        "missing_image": missing_image.value,
        "min_images": min_images,
        "extra_keys": extra_keys.value,
    }
    if path is None:
        name = PUBLISHED if format_ == AUTO else format_
        if find_published_reader(name) is None:
            raise ConfigError(f"PATH: missing; {name} is not on a hub: give its file or folder")
    elif path == DASH:
        name = _LINES if format_ == AUTO else format_
        if name != _LINES:
            raise ConfigError(f"--format: {name} does not come from standard input; give its file or folder")
        options["path"] = STDIN
    else:
        name = detect_format(path) if format_ == AUTO else format_
        options["path"] = path
    reader: Any = find_reader(name)
    known = {field.name for field in fields(reader)}
    stream = {"stream": sys.stdin.buffer} if path == DASH else {}
    corpus: Corpus = reader(**{key: value for key, value in options.items() if key in known}).load(
        check_images=check_images, **stream
    )
    return corpus
