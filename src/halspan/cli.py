"""The `halspan` console command."""

import logging
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halspan.core.errors import ConfigError, DataError, HalspanError

if TYPE_CHECKING:  # imported where they are used: `halspan --help` pays for none of them
    from rich.console import Console
    from rich.table import Table

    from halspan.data.corpus import Corpus
    from halspan.data.stats import Statistics

_PIPE_WIDTH = 160  # characters of a table that goes to a file or another program


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


app = typer.Typer(
    name="halspan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    no_args_is_help=True,
    help="""Look into corpora of annotated captions, and convert them.

    A corpus is a file or the folder it lies in: canonical JSON Lines (one caption a line),
    AlignBench's columns (one sentence a line), or CHOCOLATE's list of captions.

    Examples:
      halspan data check captions.jsonl
      halspan data stats AlignBench/ --images coco/val2017
      halspan data convert chocolate/chocolate.json captions.jsonl""",
)
app.add_typer(data_app, name="data")

_Path = Annotated[
    Path | None, typer.Argument(help="The corpus's file or folder. Without it: AlignBench from the Hugging Face hub.")
]
_Format = Annotated[Format, typer.Option("--format", "-f", help="How the corpus is written.")]
_Images = Annotated[
    Path | None, typer.Option("--images", help="Folder that image paths start from, if not the corpus's own.")
]
_OnError = Annotated[OnProblem, typer.Option("--on-error", help="Malformed records: stop, or skip and count them.")]
_MissingImage = Annotated[
    OnProblem, typer.Option("--missing-image", help="Missing or unreadable images: stop, or skip and count captions.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that a person can act on becomes one line and exit status 1 (usage: 2)."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        app(args=arguments)
    except HalspanError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None


@app.callback()
def _top() -> None:
    """Find hallucinated words in image captions.

    Start with:  halspan data --help
    """


@data_app.command()
def check(path: _Path = None, format_: _Format = Format.auto, images: _Images = None) -> None:
    """Read every record and decode every image; exit status 1 if there is a problem.

    Examples:
      halspan data check captions.jsonl
      halspan data check AlignBench/halcap_bench.jsonl --images coco/val2017
    """
    from halspan.data.corpus import EXAMPLES

    logging.getLogger("halspan").setLevel(logging.ERROR)  # what the readers would say is listed below
    corpus = _load(path, format_, images, OnProblem.skip, OnProblem.skip, min_images=0)
    problems = {reason: (count, corpus.notes["examples"][reason]) for reason, count in corpus.skipped.items()}
    if damaged := _undecodable_images(corpus):
        problems["images that cannot be decoded"] = len(damaged), damaged[:EXAMPLES]
    if n_unmatched := corpus.notes.get("error_words", {}).get("unmatched"):
        problems["error_words that do not occur"] = n_unmatched, corpus.notes["examples"]["error_words"]
    console = _console()
    _print_summary(console, corpus)
    for reason, (count, examples) in problems.items():
        console.print(f"problem: {reason}: {count}, such as")
        for example in examples:
            console.print(f"  {example}")
    if problems:
        raise typer.Exit(1)
    console.print("No problem found.")


@data_app.command()
def stats(
    path: _Path = None,
    format_: _Format = Format.auto,
    images: _Images = None,
    on_error: _OnError = OnProblem.stop,
    missing_image: _MissingImage = OnProblem.skip,
) -> None:
    """Describe a corpus by generator: sizes, error rates, positions, types, agreement.

    Examples:
      halspan data stats chocolate/
      halspan data stats captions.jsonl --on-error skip
    """
    corpus = _load(path, format_, images, on_error, missing_image, min_images=0)
    from halspan.data.stats import statistics_by_generator

    console = _console()
    _print_summary(console, corpus)
    by_generator = statistics_by_generator(corpus)
    for table in (_size_table(by_generator), _position_table(by_generator), _type_table(by_generator, corpus.taxonomy)):
        console.print(table)


@data_app.command()
def convert(
    path: Annotated[Path, typer.Argument(help="The corpus's file or folder.")],
    output: Annotated[Path, typer.Argument(help="The JSON Lines file to write.")],
    format_: _Format = Format.auto,
    images: _Images = None,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Write absolute image paths, not ones relative to the output's folder.")
    ] = False,
    on_error: _OnError = OnProblem.stop,
    missing_image: _MissingImage = OnProblem.stop,
) -> None:
    """Write a corpus as canonical JSON Lines, whole or not at all; images stay where they are.

    Examples:
      halspan data convert chocolate/ chocolate.jsonl
      halspan data convert AlignBench/ alignbench.jsonl --missing-image skip --absolute
    """
    corpus = _load(path, format_, images, on_error, missing_image, min_images=0)
    from halspan.data.jsonl import write_jsonl

    relocated = corpus.relocated(None if absolute else output.parent)
    write_jsonl(output, (caption.to_record() for caption in relocated.captions))
    console = _console()
    _print_summary(console, corpus)
    console.print(f"Written to {output}.")


def _load(
    path: Path | None,
    format_: Format,
    images: Path | None,
    on_error: OnProblem,
    missing_image: OnProblem,
    *,
    min_images: float,
) -> "Corpus":
    from halspan.data.alignbench import AlignBench
    from halspan.data.chocolate import Chocolate
    from halspan.data.formats import detect_format
    from halspan.data.jsonl import JsonLines

    options: dict[str, Any] = {
        "images": images,
        "on_error": on_error.value,
        "missing_image": missing_image.value,
        "min_images": min_images,
    }
    if path is None:
        if format_ not in (Format.auto, Format.alignbench):
            raise ConfigError(f"PATH: missing; {format_.value} comes from no hub: give its file or folder")
        return AlignBench(**options).load()
    name = detect_format(path) if format_ is Format.auto else format_.value
    readers = {"jsonl": JsonLines, "alignbench": AlignBench, "chocolate": Chocolate}
    corpus: Corpus = readers[name](path=path, **options).load()
    return corpus


def _undecodable_images(corpus: "Corpus") -> list[str]:
    from rich.progress import track

    from halspan.data.images import check_image

    messages = []
    paths = list(dict.fromkeys(corpus.image_path(caption) for caption in corpus.captions))
    for path in track(paths, description="Decoding images", console=_console(stderr=True)):
        try:
            check_image(path)
        except DataError as error:
            messages.append(str(error))
    return messages


def _console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def _print_summary(console: "Console", corpus: "Corpus") -> None:
    n_images = len({caption.image for caption in corpus.captions})
    n_sentences = sum(len(caption.sentences) for caption in corpus.captions)
    n_spans = sum(len(caption.spans) for caption in corpus.captions)
    console.print(
        f"{corpus.source['path']}: {len(corpus.captions)} captions of {n_images} images, {n_sentences} sentences, "
        f"{n_spans} spans"
    )
    for name, counts in corpus.notes.items():
        if name != "examples" and any(counts.values()):
            listing = ", ".join(f"{key} ({count})" for key, count in counts.items())
            console.print(f"{name.replace('_', ' ')}: {listing}")


def _size_table(by_generator: Mapping[str, "Statistics"]) -> "Table":
    columns = ("captions", "images", "sentences", "a caption", "words", "correct %", "unknown", "spans", "no span")
    table = _table("Sentences judged correct or incorrect", "generator", *columns, "agreement %", "kappa")
    for name, s in by_generator.items():
        judged = s.n_correct + s.n_incorrect
        counts = [s.n_captions, s.n_images, judged, _figure(s.sentences_per_caption), _figure(s.words_per_sentence)]
        shares = [_percent(s.correct_share), s.n_unknown, s.n_spans, s.n_without_span, _percent(s.agreement)]
        table.add_row(name, *map(str, counts + shares), _figure(s.fleiss_kappa, 2))
    return table


def _position_table(by_generator: Mapping[str, "Statistics"]) -> "Table":
    n_positions = len(by_generator["all"].incorrect_by_position)
    positions = [str(position) for position in range(1, n_positions)] + [f"{n_positions} and later"]
    table = _table("Incorrect sentences, % by position in the caption", "generator", *positions)
    for name, s in by_generator.items():
        table.add_row(name, *map(_percent, s.incorrect_by_position))
    return table


def _type_table(by_generator: Mapping[str, "Statistics"], taxonomy: Sequence[str]) -> "Table":
    table = _table("Incorrect sentences by type", "generator", *taxonomy)
    for name, s in by_generator.items():
        table.add_row(name, *(str(s.types.get(type_, 0)) for type_ in taxonomy))
    return table


def _table(title: str, first: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _figure(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
