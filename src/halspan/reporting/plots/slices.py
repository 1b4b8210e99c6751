"""Plots of the slices of a part: by position, length, type, direction and agreement."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from halspan.reporting.figures import find_reason, look_up, show
from halspan.reporting.plots.drawing import (
    CORRECT,
    INCORRECT,
    LOW,
    WIDE,
    Plot,
    Sketch,
    Table,
    auroc_axis,
    finish,
    label,
    number_or_gap,
    panels,
    span_of,
)
from halspan.reporting.plots.svg import GREEN, INK, PURPLE

DRIFT = 0.1
"""Smallest change of correct sentences' mean score over positions at which a report names position as a cause."""
MIN_SENTENCES = 20
"""Fewest correct sentences at a position for that comparison."""
_HEADS = ("correct", "incorrect", "mean P, correct", "mean P, incorrect", "AUROC")
_AUROC = "AUROC of sentences"
_FEW_ROWS = 4  # rows of a plot whose height depends on them

Slice = Mapping[str, Any]


def draw_slices(metrics: Mapping[str, Any], part: str) -> list[Plot]:
    """Draw the slices of one part: by position, length, type, direction and agreement.

    Args:
        metrics: Content of `metrics.json`.
        part: Name of the part.
    """
    plots = []
    for name, (title, sketch) in _SKETCHES.items():
        is_there = look_up(metrics, part, "slices", name)
        plots.append(
            finish(name, title, sketch(metrics[part]) if is_there else find_reason(metrics, part, "slices", name))
        )
    return plots


def sketch_position(figures: Mapping[str, Any]) -> Sketch:
    """Sketch mean scores and AUROC by position; a detector that uses the position rises on both classes."""
    rows = figures["slices"]["position"]
    names = [f"{row['position'] + 1}{' +' if row.get('and_later') else ''}" for row in rows]
    pooled = look_up(figures, "sentence", "auroc", "pooled")
    aurocs = [row["auroc"] for row in rows]

    def draw(figure: Figure) -> None:
        left, right = panels(figure)
        for kind, style in (("incorrect", INCORRECT), ("correct", CORRECT)):
            left.plot(number_or_gap([row["mean"][kind] for row in rows]), label=f"{kind} sentences", **style)
        left.set(ylabel="mean P(incorrect)", ylim=(-0.02, 1.02))
        right.plot(number_or_gap(aurocs), color=GREEN, marker="^", label="within a position")
        if pooled is not None:
            right.axhline(pooled, color=INK, linestyle="--", linewidth=1.2, label="over all positions")
        right.set(ylabel=_AUROC)
        auroc_axis(right, [*aurocs, pooled])
        for axes in (left, right):
            axes.set_xticks(range(len(rows)), names)
            axes.set(xlabel="position in the caption (1 = first sentence)")
            axes.legend(loc="best")

    return Sketch(_read_position(rows, pooled), draw, WIDE, _table("position", names, rows), narrow=5.6)


def sketch_length(figures: Mapping[str, Any]) -> Sketch:
    """Sketch AUROC by the number of words of a sentence."""
    rows = figures["slices"]["length"]
    names = [f"{row['min_words']}–{row['max_words']}" if row["max_words"] else f"{row['min_words']} +" for row in rows]
    aurocs = [row["auroc"] for row in rows]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(number_or_gap(aurocs), color=GREEN, marker="^")
        axes.set_xticks(range(len(rows)), _ticks(names, rows))
        auroc_axis(axes, aurocs)
        axes.set(xlabel="length of the sentence (words; n sentences)", ylabel=_AUROC)

    return Sketch(
        f"From the shortest to the longest sentences the AUROC is within {span_of(aurocs)}; dotted: chance.",
        draw,
        LOW,
        _table("words", names, rows),
    )


def sketch_type(figures: Mapping[str, Any]) -> Sketch:
    """Sketch, for each type, the AUROC of its sentences against correct ones, and the recall of its characters."""
    slices = figures["slices"]["type"]
    by_type = look_up(figures, "span", "by_type") or {}
    names = sorted({*slices, *by_type}, key=lambda name: _total(slices.get(name)))
    aurocs = [look_up(slices, name, "auroc") for name in names]
    recalls = [look_up(by_type, name, "char_recall") for name in names]
    counts = [look_up(slices, name, "n", "incorrect") or 0 for name in names]

    def draw(figure: Figure) -> None:
        left, right = panels(figure, sharey=True)
        places = range(len(names))
        left.plot(number_or_gap(aurocs), places, color=GREEN, marker="^", linestyle="none")
        left.set_yticks(places, [f"{label(name)} ({n:,})" for name, n in zip(names, counts, strict=True)])
        title = "type (incorrect sentences)" if len(names) > _FEW_ROWS else "type"  # few rows have no room for more
        left.set(xlabel=f"{_AUROC} of this type against all correct ones", ylabel=title)
        auroc_axis(left, aurocs, along="x")
        right.plot(number_or_gap(recalls), places, color=PURPLE, marker="D", linestyle="none")
        right.set(xlabel="character recall (share of the annotated characters)", xlim=(-0.02, 1.02))

    hardest = min((pair for pair in zip(aurocs, names, strict=True) if pair[0] is not None), default=None)
    reading = f"AUROC {span_of(aurocs)}, character recall {span_of(recalls)}."
    if hardest:
        reading = f"The hardest type to detect is {hardest[1]} (AUROC {show(hardest[0])}). {reading}"
    rows = [
        (name, f"{n:,}", show(auroc), show(recall))
        for name, n, auroc, recall in zip(names, counts, aurocs, recalls, strict=True)
    ][::-1]
    height = 1.2 + 0.28 * len(names)
    table = Table(("type", "incorrect", "AUROC", "character recall"), rows)
    return Sketch(reading, draw, (WIDE[0], height), table, narrow=2 * height)


def sketch_direction(figures: Mapping[str, Any]) -> Sketch:
    """Sketch AUROC for captions of images and for images of captions."""
    slices = figures["slices"]["direction"]
    names = [name.replace("_", " ") for name in slices]
    rows = list(slices.values())
    known = [f"{name} {show(row['auroc'])}" for name, row in zip(names, rows, strict=True)]
    return Sketch(
        f"AUROC by direction: {', '.join(known)}; dotted: chance.",
        lambda figure: _draw_dots(figure.subplots(), names, rows),
        LOW,
        _table("direction", names, rows),
    )


def sketch_agreement(figures: Mapping[str, Any]) -> Sketch | str:
    """Sketch AUROC where annotators agree and where they do not, next to the ceiling that votes set."""
    agreement = figures["slices"]["agreement"]
    if not agreement["n_voted"]:
        return "no sentence has two votes or more"
    names = ["unanimous", "disputed"]
    rows = [agreement[name] for name in names]
    ceiling = agreement["ceiling"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _draw_dots(axes, names, rows)
        if ceiling is not None:
            axes.axvline(ceiling, color=INK, linestyle="--", linewidth=1.2, label="noise ceiling")
            axes.legend(loc="lower left")

    known = ", ".join(f"{name} {show(row['auroc'])}" for name, row in zip(names, rows, strict=True))
    return Sketch(
        f"AUROC where the annotators' votes are {known}; the noise ceiling, the AUROC that these votes allow, is "
        f"{show(ceiling)} ({agreement['n_voted']:,} sentences with votes).",
        draw,
        LOW,
        _table("votes", names, rows),
    )


_SKETCHES: dict[str, tuple[str, Callable[[Mapping[str, Any]], Sketch | str]]] = {
    "position": ("Position of the sentence", sketch_position),
    "type": ("Type of hallucination", sketch_type),
    "length": ("Length of the sentence", sketch_length),
    "direction": ("Direction", sketch_direction),
    "agreement": ("Agreement of the annotators", sketch_agreement),
}


def _read_position(rows: Sequence[Slice], pooled: float | None) -> str:
    """Compare how much scores change with the position, and with the label at the same position."""
    gap = _over_pairs(rows, [_gap(row) for row in rows])
    within = _over_pairs(rows, [row["auroc"] for row in rows])
    means = [row["mean"]["correct"] for row in rows if row["n"]["correct"] >= MIN_SENTENCES]
    if gap is None:
        return "No position has sentences of both classes."
    reading = (
        f"At the same position, the scores of incorrect and correct sentences differ by {gap:+z.3f} on average, with "
        f"an AUROC of {show(within)}; over all positions the AUROC is {show(pooled)}."
    )
    if len(means) < 2:
        return reading
    drift = max(means) - min(means)
    reading += f" From position to position the mean score of correct sentences moves by {show(drift)}: "
    if drift >= max(gap, DRIFT):
        return f"{reading}the score follows the position more than the sentence, a position shortcut."
    if drift >= DRIFT:
        return f"{reading}the position is part of the score."
    return f"{reading}the position plays next to no part."


def _over_pairs(rows: Sequence[Slice], values: Sequence[float | None]) -> float | None:
    """Average over slices, weighted by the number of pairs of a correct and an incorrect sentence."""
    known = [
        (row["n"]["correct"] * row["n"]["incorrect"], value)
        for row, value in zip(rows, values, strict=True)
        if value is not None
    ]
    n_pairs = sum(n for n, _ in known)
    return sum(n * value for n, value in known) / n_pairs if n_pairs else None


def _gap(row: Slice) -> float | None:
    correct, incorrect = row["mean"]["correct"], row["mean"]["incorrect"]
    return None if correct is None or incorrect is None else incorrect - correct


def _draw_dots(axes: Axes, names: Sequence[str], rows: Sequence[Slice]) -> None:
    aurocs = [row["auroc"] for row in rows]
    axes.plot(number_or_gap(aurocs), range(len(rows)), color=GREEN, marker="^", linestyle="none")
    axes.set_yticks(range(len(rows)), _ticks(names, rows))
    axes.set(xlabel=f"{_AUROC} (n sentences)", ylim=(len(rows) - 0.5, -0.5))
    auroc_axis(axes, aurocs, along="x")


def _table(head: str, names: Sequence[str], rows: Sequence[Slice]) -> Table:
    return Table(
        (head, *_HEADS),
        [
            (
                name,
                f"{row['n']['correct']:,}",
                f"{row['n']['incorrect']:,}",
                show(row["mean"]["correct"]),
                show(row["mean"]["incorrect"]),
                show(row["auroc"]),
            )
            for name, row in zip(names, rows, strict=True)
        ],
    )


def _total(row: Slice | None) -> int:
    return row["n"]["incorrect"] if row else 0


def _ticks(names: Sequence[str], rows: Sequence[Slice]) -> list[str]:
    counts = (row["n"]["correct"] + row["n"]["incorrect"] for row in rows)
    return [f"{label(name)}\nn = {count:,}" for name, count in zip(names, counts, strict=True)]
