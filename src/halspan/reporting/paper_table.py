"""The table for a paper: detectors and baselines in rows, generators in columns, AUROC x 100."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from halspan.core.text.printable import inert_cell, printable
from halspan.metrics.self_preference import family_of_generator
from halspan.reporting.figures import MISSING, Figure, find_figure, look_up, main_part

Kind = Literal["detector", "member", "baseline", "control"]
CONTROLS = {"blind": "images exchanged", "blank": "blank images"}
_MEAN = "sentence.auroc.macro"
_BY_GENERATOR = "sentence.auroc.by_generator"


@dataclass(frozen=True, slots=True)
class Cell:
    """The AUROC of one row on one generator, or over all of them.

    Attributes:
        figure: Figure, from 0 to 1.
        is_best: Whether no row of its column shows a higher figure; controls do not take part.
        is_own: Whether the generator is of the same family as the row's detector.
    """

    figure: Figure
    is_best: bool = False
    is_own: bool = False

    @property
    def shown(self) -> float | None:
        """Return the AUROC x 100 as the table shows it."""
        return None if self.figure.value is None else round(100 * self.figure.value, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One detector, ensemble member, baseline, or control without the right images.

    Attributes:
        name: Name in `metrics.json`.
        title: Name for readers.
        kind: Kind of the row.
        family: Family of models, where it is known.
        random_weights: Whether nothing was learned, so that the figures only show that the code runs.
        image_blind: Whether it is a baseline that encodes no image.
        cells: One cell for each generator.
        mean: Mean over the generators that have both classes.
    """

    name: str
    title: str
    kind: Kind
    family: str | None
    random_weights: bool
    image_blind: bool
    cells: tuple[Cell, ...]
    mean: Cell


@dataclass(frozen=True, slots=True)
class PaperTable:
    """The rows, and the generators of their cells."""

    generators: tuple[str, ...]
    rows: tuple[Row, ...]


def paper_table(metrics: Mapping[str, Any]) -> PaperTable:
    """Collect every row that was judged on the main part.

    Args:
        metrics: Content of `metrics.json`.
    """
    roots = list(_roots(metrics))
    names: set[str] = set()
    for _, root in roots:
        names |= set(look_up(metrics, *root, _BY_GENERATOR) or look_up(metrics, *root, *_BY_GENERATOR.split(".")) or ())
    generators = tuple(sorted(names))
    return PaperTable(generators, _mark_best([_row(metrics, kind, root, generators) for kind, root in roots]))


def to_markdown(table: PaperTable) -> str:
    """Return the table in GitHub's Markdown; the best figure of a column is bold."""
    lines = [["detector", *map(_escape, table.generators), "mean"], ["---"] + ["---:"] * (len(table.generators) + 1)]
    for row in table.rows:
        mean = _markdown_cell(row.mean)
        if row.mean.figure.interval:
            mean += " ({:.1f} to {:.1f})".format(*(100 * end for end in row.mean.figure.interval))
        lines.append([_escape(_full_title(row)), *map(_markdown_cell, row.cells), mean])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def to_csv(table: PaperTable) -> str:
    """Return the table as comma-separated values; the ends of the mean's interval have columns of their own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["detector", "kind", "family", *map(inert_cell, table.generators), "mean", "mean_low", "mean_high"])
    for row in table.rows:
        values = [*(cell.figure.value for cell in row.cells), row.mean.figure.value]
        values += row.mean.figure.interval or (None, None)
        numbers = ["" if value is None else f"{100 * value:.1f}" for value in values]
        writer.writerow([inert_cell(_full_title(row)), row.kind, inert_cell(row.family or ""), *numbers])
    return file.getvalue()


def _roots(metrics: Mapping[str, Any]) -> Iterator[tuple[Kind, tuple[str, ...]]]:
    """Yield the kind of each row, and its place in the metrics."""
    if (part := main_part(metrics)) is not None:
        yield "detector", (part,)
    for name in metrics.get("members") or ():
        yield "member", ("members", name)
    for name in metrics.get("baselines") or ():
        yield "baseline", ("baselines", name)
    for name in CONTROLS:
        if metrics.get(name):
            yield "control", (name,)


def _row(metrics: Mapping[str, Any], kind: Kind, root: tuple[str, ...], generators: Sequence[str]) -> Row:
    name = root[-1]
    detector = metrics.get("detector") or {}
    about = look_up(metrics, *root) if kind in ("member", "baseline") else detector
    family = None if kind == "control" else about.get("family")
    titles = {"detector": detector.get("name") or "detector", "control": CONTROLS.get(name)}
    return Row(
        name=name,
        title=titles.get(kind) or about.get("title") or name,
        kind=kind,
        family=family,
        random_weights=bool(about.get("random_weights")),
        image_blind=kind == "baseline" and not look_up(about, "cost", "image_encodings"),
        cells=tuple(
            Cell(
                find_figure(metrics, root, _BY_GENERATOR, generator),
                is_own=family is not None and family_of_generator(generator) == family,
            )
            for generator in generators
        ),
        mean=Cell(find_figure(metrics, root, _MEAN)),
    )


def _mark_best(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Mark the highest cells of each column by their displayed values, so that equal ones are marked alike."""
    columns = zip(
        *([cell.shown for cell in (*row.cells, row.mean)] for row in rows if row.kind != "control"), strict=True
    )
    best = [max((value for value in column if value is not None), default=None) for column in columns]

    def marked(row: Row) -> Row:
        *cells, mean = (
            replace(cell, is_best=cell.shown is not None and cell.shown == highest)
            for cell, highest in zip((*row.cells, row.mean), best, strict=True)
        )
        return replace(row, cells=tuple(cells), mean=mean)

    return tuple(row if row.kind == "control" else marked(row) for row in rows)


def _full_title(row: Row) -> str:
    return f"{row.title} (random weights)" if row.random_weights else row.title


def _markdown_cell(cell: Cell) -> str:
    if cell.shown is None:
        return MISSING
    text = f"**{cell.shown:.1f}**" if cell.is_best else f"{cell.shown:.1f}"
    return f"{text} (own)" if cell.is_own else text


def _escape(text: str) -> str:
    """Escape a name, so that it is not read as Markdown or HTML and does not end its cell."""
    return re.sub(r"([\\`*_\[\]<>|&~])", r"\\\1", printable(" ".join(text.split())))
