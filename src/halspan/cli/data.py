"""`halspan data`: inspect corpora of annotated captions, fetch their images, and convert them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halspan.cli.corpora import (
    AUTO,
    ExtraKeysOption,
    FormatOption,
    ImagesOption,
    MissingImageOption,
    OnErrorOption,
    OnExtraKeys,
    OnProblem,
    load_corpus,
)
from halspan.console import new_table, open_console
from halspan.core.errors import ConfigError
from halspan.data.readers.registry import PUBLISHED, find_published_reader
from halspan.data.streams.lines import DASH

if TYPE_CHECKING:  # imported where they are used, to keep `halspan --help` fast
    from rich.console import Console

    from halspan.console import WholeTable
    from halspan.data.corpus import Corpus
    from halspan.data.inspection.statistics import Statistics


app = typer.Typer(
    no_args_is_help=True,
    help="""Look into corpora of annotated captions, fetch their images, and convert them.

    A corpus is a file or its folder: canonical JSON Lines (one caption per line),
    AlignBench's columns (one sentence per line), or CHOCOLATE's list of captions.

    Examples:
      halspan data check captions.jsonl
      halspan data stats AlignBench/ --images coco/val2017
      halspan data download AlignBench/
      halspan data convert chocolate/chocolate.json captions.jsonl""",
)

_Path = Annotated[
    Path | None,
    typer.Argument(help="File or folder of the corpus; - reads standard input. Default: AlignBench from the hub."),
]


@app.command()
def check(
    path: _Path = None,
    format_: FormatOption = AUTO,
    images: ImagesOption = None,
    extra_keys: ExtraKeysOption = OnExtraKeys.stop,
    all_: Annotated[
        Path | None,
        typer.Option("--all", metavar="FILE.csv", help="Write all errors and warnings to this file, one per row."),
    ] = None,
) -> None:
    """Read every record and decode every image; warn of probable mistakes in the annotation.

    An error is an unusable record or image; with one, the exit status is 1.
    A warning is a probable mistake in a usable record: a span off by one,
    a misspelled type, text that no sentence covers, ...

    Examples:
      halspan data check captions.jsonl
      halspan data check captions.jsonl --all problems.csv
      halspan data check AlignBench/halcap_bench.jsonl --images coco/val2017
    """
    from halspan.cli.checks import find_errors, find_warnings, show_problems, write_problems

    logging.getLogger("halspan").setLevel(logging.ERROR)  # the readers' messages are listed below
    corpus = load_corpus(
        path, format_, images, OnProblem.skip, OnProblem.skip, check_images=False, extra_keys=extra_keys
    )
    errors, warnings = find_errors(corpus), find_warnings(corpus)
    console = open_console()
    _print_summary(console, corpus)
    is_cut = show_problems(console, "error", errors) | show_problems(console, "warning", warnings)
    if all_ is not None:
        write_problems(all_, errors=errors, warnings=warnings)
        console.print(f"Written to {all_}.", soft_wrap=True)
    elif is_cut:
        console.print("All of them: --all problems.csv")
    if errors:
        raise typer.Exit(1)
    console.print(
        f"No error, {len(warnings)} warning{'s' if len(warnings) > 1 else ''}." if warnings else "No problem found."
    )


@app.command()
def stats(
    path: _Path = None,
    format_: FormatOption = AUTO,
    images: ImagesOption = None,
    on_error: OnErrorOption = OnProblem.stop,
    extra_keys: ExtraKeysOption = OnExtraKeys.stop,
) -> None:
    """Describe a corpus by generator: sizes, error rates, positions, types and agreement.

    Images are not read.

    Examples:
      halspan data stats chocolate/
      halspan data stats captions.jsonl --on-error skip
    """
    corpus = load_corpus(path, format_, images, on_error, OnProblem.skip, check_images=False, extra_keys=extra_keys)
    from halspan.data.inspection.statistics import statistics_by_generator

    console = open_console()
    _print_summary(console, corpus)
    by_generator = statistics_by_generator(corpus)
    for table in (_size_table(by_generator), _position_table(by_generator), _type_table(by_generator, corpus.taxonomy)):
        console.print()
        console.print(table)


@app.command()
def download(
    path: _Path = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which `downloaded/` is made; give it as --images afterwards. Default: the corpus's."
        ),
    ] = None,
    format_: FormatOption = AUTO,
    max_mib: Annotated[int, typer.Option(min=1, help="Refuse images larger than this, in MiB.")] = 50,
    per_host: Annotated[int, typer.Option(min=1, max=16, help="Simultaneous downloads from one host.")] = 4,
) -> None:
    """Fetch the images that a corpus only links to; a second call continues where the first stopped.

    Addresses are read from `image_url` of AlignBench, and from `image` of
    canonical JSON Lines. Every image is decoded before it is kept. The file
    `downloaded/manifest.jsonl` has the outcome of each address; remove it to
    try again the addresses that are dead or refused. Exit status: 0 if every
    image is there or dead, 1 if some were refused or gave no answer, 130 if
    interrupted.

    Examples:
      halspan data download AlignBench/
      halspan data download --to photos/
    """
    from halspan.cli.downloads import fetch_images
    from halspan.data.download.fetch import Downloader
    from halspan.data.download.web import Limits

    file, name, folder = _linking_corpus(path, format_, to)
    downloader = Downloader(
        images=folder,
        limits=Limits(max_bytes=max_mib * 2**20),
        per_host=per_host,
    )
    raise typer.Exit(fetch_images(file, name, downloader))


@app.command()
def convert(
    path: Annotated[Path, typer.Argument(help="File or folder of the corpus; - reads JSON Lines from standard input.")],
    output: Annotated[Path, typer.Argument(help="File to write, .jsonl or .jsonl.gz; - writes to standard output.")],
    format_: FormatOption = AUTO,
    images: ImagesOption = None,
    absolute: Annotated[
        bool,
        typer.Option(
            "--absolute", help="Write absolute image paths, instead of paths relative to the output's folder."
        ),
    ] = False,
    on_error: OnErrorOption = OnProblem.stop,
    extra_keys: ExtraKeysOption = OnExtraKeys.stop,
    missing_image: MissingImageOption = OnProblem.stop,
) -> None:
    """Write a corpus as canonical JSON Lines, whole or not at all; images stay where they are.

    Image paths are rewritten to start from the output's folder, or from the
    current folder if the output is standard output.

    Examples:
      halspan data convert chocolate/ chocolate.jsonl
      halspan data convert AlignBench/ captions.jsonl --missing-image skip
    """
    corpus = load_corpus(path, format_, images, on_error, missing_image, extra_keys=extra_keys)
    from halspan.data.readers.jsonl import write_jsonl, write_lines

    relocated = corpus.relocated(None if absolute else output.parent)
    records = (caption.to_record() for caption in relocated.captions)
    if output == DASH:
        from halspan.data.streams.piped import pipe_out

        with pipe_out() as stream:
            write_lines(stream, records)
    else:
        write_jsonl(output, records)
    console = open_console(stderr=output == DASH)
    _print_summary(console, corpus)
    if output != DASH:
        console.print(f"Written to {output}.", soft_wrap=True)


def _linking_corpus(path: Path | None, format_: str, to: Path | None) -> tuple[Path, str, Path]:
    """Return the corpus's file, the name of its reader, and the folder that its image paths start from."""
    from halspan.data.readers.formats import detect_format, find_file

    if path is None:
        published = find_published_reader(PUBLISHED if format_ == AUTO else format_)
        if published is None:
            raise ConfigError(f"PATH: missing; {format_} is not on a hub: give its file or folder")
        if to is None:
            raise ConfigError("--to: missing; images cannot go into the hub's cache: give a folder for them")
        path = published.fetch()
    file = find_file(path)
    name = detect_format(file) if format_ == AUTO else format_
    return file, name, file.parent if to is None else to.expanduser()


def _print_summary(console: "Console", corpus: "Corpus") -> None:
    n_images = len({caption.image for caption in corpus.captions})
    n_sentences = sum(len(caption.sentences) for caption in corpus.captions)
    n_spans = sum(len(caption.spans) for caption in corpus.captions)
    console.print(
        f"{corpus.source['path']}: {len(corpus.captions)} captions of {n_images} images, {n_sentences} sentences, "
        f"{n_spans} spans"
    )
    for name, counts in corpus.notes.items():
        if name not in ("problems", "examples") and any(counts.values()):
            listing = ", ".join(f"{key} ({count})" for key, count in counts.items())
            console.print(f"{name.replace('_', ' ')}: {listing}")
    for name, example in corpus.notes.get("examples", {}).items():
        console.print(f"first of {name}: {example}")


def _size_table(by_generator: Mapping[str, "Statistics"]) -> "WholeTable":
    columns = ("captions", "images", "sentences", "a caption", "words", "correct %", "unknown", "spans", "no span")
    table = new_table("Sentences judged correct or incorrect", "generator", *columns, "agreement %", "kappa")
    for name, s in by_generator.items():
        judged = s.n_correct + s.n_incorrect
        counts = [s.n_captions, s.n_images, judged, _figure(s.sentences_per_caption), _figure(s.words_per_sentence)]
        shares = [_percent(s.correct_share), s.n_unknown, s.n_spans, s.n_without_span, _percent(s.agreement)]
        table.add_row(name, *map(str, counts + shares), _figure(s.fleiss_kappa, 2))
    return table


def _position_table(by_generator: Mapping[str, "Statistics"]) -> "WholeTable":
    n_positions = len(by_generator["all"].incorrect_by_position)
    positions = [str(position) for position in range(1, n_positions)] + [f"{n_positions} and later"]
    table = new_table("Incorrect sentences, % by position in the caption", "generator", *positions)
    for name, s in by_generator.items():
        table.add_row(name, *map(_percent, s.incorrect_by_position))
    return table


def _type_table(by_generator: Mapping[str, "Statistics"], taxonomy: Sequence[str]) -> "WholeTable":
    table = new_table("Incorrect sentences by type", "generator", *taxonomy)
    for name, s in by_generator.items():
        table.add_row(name, *(str(s.types.get(type_, 0)) for type_ in taxonomy))
    return table


def _figure(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
