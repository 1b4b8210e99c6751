"""How the console command reads corpora: the options that its commands share."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from halspan.core.errors import ConfigError, DataError

if TYPE_CHECKING:  # imported where they are used: `halspan --help` pays for none of them
    from halspan.data.corpus import Corpus


DASH = Path("-")  # standard input or output


class Format(StrEnum):
    """How a corpus is written."""

    auto = "auto"
    jsonl = "jsonl"
    alignbench = "alignbench"
    chocolate = "chocolate"


class OnProblem(StrEnum):
    """What to do about a record or an image that cannot be used."""

    stop = "raise"
    skip = "skip"


class OnExtraKeys(StrEnum):
    """What to do about keys that captions do not have."""

    stop = "raise"
    ignore = "ignore"


FormatOption = Annotated[
    Format,
    typer.Option("--format", "-f", metavar="FORMAT", help=f"How the corpus is written: {', '.join(Format)}."),
]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", help="Folder that image paths start from, if not the corpus's own.")
]
OnErrorOption = Annotated[
    OnProblem, typer.Option("--on-error", help="Malformed records: stop, or skip and count them.")
]
ExtraKeysOption = Annotated[
    OnExtraKeys,
    typer.Option("--extra-keys", help="Keys of JSON Lines that captions do not have: malformed, or left out."),
]
MissingImageOption = Annotated[
    OnProblem, typer.Option("--missing-image", help="Missing or unreadable images: stop, or skip and count captions.")
]


@contextmanager
def pipe_out() -> Iterator[BinaryIO]:
    """Open standard output for bytes.

    Raises:
        DataError: whatever reads it has ended.
    """
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        raise DataError("standard output: whatever reads it has ended; not all was written") from None


def load_corpus(
    path: Path | None,
    format_: Format,
    images: Path | None,
    on_error: OnProblem,
    missing_image: OnProblem,
    *,
    min_images: float = 0,
    check_images: bool = True,
    extra_keys: OnExtraKeys = OnExtraKeys.stop,
) -> "Corpus":
    """Read a corpus by the reader that its format needs; `check_images=False` looks at no image.

    Raises:
        ConfigError: there is neither a path nor a hub to read it from, or the format does not come from a stream.
        DataError: the corpus cannot be found or used.
    """
    from halspan.data.alignbench import AlignBench
    from halspan.data.chocolate import Chocolate
    from halspan.data.formats import detect_format
    from halspan.data.jsonl import JsonLines
    from halspan.data.lines import STDIN

    options: dict[str, Any] = {
        "images": images,
        "on_error": on_error.value,
        "missing_image": missing_image.value,
        "min_images": min_images,
    }
    if path is None:
        if format_ not in (Format.auto, Format.alignbench):
            raise ConfigError(f"PATH: missing; {format_.value} comes from no hub: give its file or folder")
        return AlignBench(**options).load(check_images=check_images)
    if path == DASH:
        if format_ not in (Format.auto, Format.jsonl):
            raise ConfigError(f"--format: {format_.value} does not come from standard input; give its file or folder")
        reader = JsonLines(path=STDIN, extra_keys=extra_keys.value, **options)
        return reader.load(check_images=check_images, stream=sys.stdin.buffer)
    name = detect_format(path) if format_ is Format.auto else format_.value
    if name == "jsonl":
        reader = JsonLines(path=path, extra_keys=extra_keys.value, **options)
        return reader.load(check_images=check_images)
    readers = {"alignbench": AlignBench, "chocolate": Chocolate}
    corpus: Corpus = readers[name](path=path, **options).load(check_images=check_images)
    return corpus
