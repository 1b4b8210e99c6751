"""Findings of `halspan data check`: errors in a corpus, warnings about it, and their display."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from halspan.console import track
from halspan.core.files import write_text, written_to
from halspan.core.text.printable import inert_cell
from halspan.data.corpus import Corpus, is_inside
from halspan.data.images import describe_problem
from halspan.data.inspection.problems import Problem, find_problems, group_by_kind

if TYPE_CHECKING:
    from rich.console import Console

_EXAMPLES = 5  # number of problems of each kind that are shown


def find_errors(corpus: Corpus) -> list[Problem]:
    """Find errors: records that the reader left out, error words that do not occur, and damaged images."""
    listed = dict(corpus.notes["problems"])
    if words := listed.pop("error_words", None):
        listed["error_words that do not occur"] = words
    left_out = [_read_problem(corpus, kind, message) for kind, messages in listed.items() for message in messages]
    return left_out + _image_errors(corpus)


def find_warnings(corpus: Corpus) -> list[Problem]:
    """Find probable mistakes in usable captions, and images outside the expected folders."""
    folders = corpus.image_folders or (corpus.image_root,)
    return find_problems(corpus) + [
        Problem(
            kind="image paths that leave the images' folder",
            id=caption.id,
            line=corpus.lines.get(caption.id),
            message=f"image: {caption.image!r} leads out of {' and '.join(map(str, folders))}",
            suggestion="a corpus from elsewhere may show any picture so; data.images_inside=true refuses it",
        )
        for caption in corpus.captions
        if not is_inside(corpus.image_path(caption), folders)
    ]


def show_problems(console: "Console", severity: str, problems: Sequence[Problem]) -> bool:
    """Print each kind of problem with its count and first examples; return whether more exist than are shown."""
    groups = group_by_kind(problems)
    for kind, found in groups.items():
        console.print(f"{severity}: {kind}: {len(found)}{', such as' if len(found) > _EXAMPLES else ''}")
        for problem in found[:_EXAMPLES]:
            console.print(f"  {problem}", soft_wrap=True)
    return any(len(found) > _EXAMPLES for found in groups.values())


def write_problems(path: Path, *, errors: Sequence[Problem], warnings: Sequence[Problem]) -> None:
    """Write every problem as a row of a CSV file.

    Raises:
        DataError: The file cannot be written.
    """
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("severity", "line", "id", "kind", "message", "suggestion"))
    for severity, problems in (("error", errors), ("warning", warnings)):
        for item in problems:
            line = "" if item.line is None else item.line
            texts = map(inert_cell, (item.id, item.kind, item.message, item.suggestion))
            writer.writerow((severity, line, *texts))
    with written_to("--all", path):
        write_text(path, rows.getvalue())


def _read_problem(corpus: Corpus, kind: str, message: str) -> Problem:
    """Split a reader's message into line and text; it begins with `file:line: ` if it is about a record."""
    found = re.match(rf"{re.escape(corpus.source['path'])}:(\d+): ", message)
    if found is None:
        return Problem(kind=kind, message=message)
    return Problem(kind=kind, message=message[found.end() :], line=int(found[1]))


def _image_errors(corpus: Corpus) -> list[Problem]:
    images = list(dict.fromkeys(caption.image for caption in corpus.captions))
    found = {
        image: describe_problem(corpus.image_root / image, decode=True)
        for image in track(images, "decoding images", total=len(images))
    }
    return [
        Problem(kind=problem[0], id=caption.id, line=corpus.lines.get(caption.id), message=problem[1])
        for caption in corpus.captions
        if (problem := found[caption.image]) is not None
    ]
