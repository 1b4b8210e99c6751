"""The common style of a report's plots; marks differ in more than color."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from halspan.reporting.figures import MISSING
from halspan.reporting.plots.svg import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION, YELLOW, render

WIDE, HALF, LOW = (9.2, 3.1), (5.2, 4.2), (5.2, 2.5)  # inches
NARROW = 3.65  # inches; the width of a phone
CORRECT: dict[str, Any] = {"color": BLUE, "marker": "o", "linestyle": "-"}
INCORRECT: dict[str, Any] = {"color": VERMILION, "marker": "s", "linestyle": "--"}
CHANCE: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 1}
_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK, YELLOW)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # 7 markers and 8 colors: no pair repeats within 56 lines
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1)))
_LONGEST_NAME = 24  # characters
_LONGEST_LABEL = 34  # characters in a line of a narrow page


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers of a plot, as text."""

    heads: tuple[str, ...]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Sketch:
    """A plot before it is drawn.

    Attributes:
        reading: Explanation in one or two sentences.
        draw: Function that fills an empty figure.
        size: Width and height, in inches.
        table: Its numbers.
        narrow: Height in inches for a second drawing on a narrow page; None where the first is scaled or scrolled.
    """

    reading: str
    draw: Callable[[Figure], None]
    size: tuple[float, float]
    table: Table
    narrow: float | None = None


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot of the page.

    Attributes:
        name: Name, unique in the page.
        title: Heading.
        reading: Explanation, or the reason why the plot is missing.
        svg: Drawing; None where it is missing.
        table: Its numbers.
        narrow: Drawing for a narrow page.
        is_wide: Whether it takes the whole width of the page.
    """

    name: str
    title: str
    reading: str
    svg: Markup | None = None
    table: Table | None = None
    narrow: Markup | None = None
    is_wide: bool = False


def finish(name: str, title: str, sketch: Sketch | str) -> Plot:
    """Draw a plot, or return one with the reason in its place."""
    if isinstance(sketch, str):
        return Plot(name, title, sketch)
    words = {"title": title, "description": sketch.reading}
    svg, narrow = render(f"plot-{name}", sketch.draw, size=sketch.size, **words), None
    if sketch.narrow is not None:
        narrow = render(f"narrow-{name}", _narrowly(sketch.draw), size=(NARROW, sketch.narrow), **words)
    return Plot(name, title, sketch.reading, svg, sketch.table, narrow, is_wide=sketch.size[0] > HALF[0])


def panels(figure: Figure, **options: Any) -> tuple[Axes, Axes]:
    """Divide a figure into two panels: side by side, or on a narrow page one above the other."""
    is_narrow = figure.get_figwidth() <= NARROW
    first, second = figure.subplots(2, 1, **options) if is_narrow else figure.subplots(1, 2, **options)
    return first, second


def _narrowly(draw: Callable[[Figure], None]) -> Callable[[Figure], None]:
    """Break the labels of axes, which would otherwise be too wide for a narrow figure."""

    def drawn(figure: Figure) -> None:
        draw(figure)
        for axes in figure.axes:
            # at the right end of its axis, since in the middle of a short one it would leave the figure
            axes.set_xlabel(textwrap.fill(axes.get_xlabel(), _LONGEST_LABEL), loc="right")
            axes.set_ylabel(textwrap.fill(axes.get_ylabel(), _LONGEST_LABEL))

    return drawn


def series(index: int) -> dict[str, Any]:
    """Return the color, marker and dashes of a line."""
    return {
        "color": _COLORS[index % len(_COLORS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index % len(_DASHES)],
    }


def label(name: str) -> str:
    """Shorten a name from the data to fit a plot, without characters that XML cannot hold."""
    plain = "".join(character if character.isprintable() else " " for character in name)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 1]}…"


def number_or_gap(values: Sequence[float | None]) -> list[float]:
    """Replace missing figures by NaN, which plots leave out."""
    return [float("nan") if value is None else value for value in values]


def auroc_axis(axes: Axes, values: Sequence[float | None], *, along: str = "y") -> None:
    """Scale an AUROC axis so that chance is visible, and mark chance."""
    low = min([0.5, *(value for value in values if value is not None)]) - 0.05
    if along == "y":
        axes.set_ylim(low, 1.02)
        axes.axhline(0.5, **CHANCE)
    else:
        axes.set_xlim(low, 1.02)
        axes.axvline(0.5, **CHANCE)


def span_of(values: Sequence[float | None]) -> str:
    """Describe the range of figures."""
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    return low if low == high else f"{low} to {high}"
