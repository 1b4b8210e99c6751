"""The plots of a report that come from scores and from the paper's table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from halspan.core.captions import Prediction
from halspan.metrics.judged import JudgedSentences, judged_sentences
from halspan.metrics.self_preference import self_preference
from halspan.metrics.sentence import auroc, recall_at_fpr, reliability, roc_curve
from halspan.reporting.figures import MISSING, look_up, show
from halspan.reporting.paper_table import Kind, Row
from halspan.reporting.plots.drawing import (
    CHANCE,
    CORRECT,
    HALF,
    INCORRECT,
    WIDE,
    Plot,
    Sketch,
    Table,
    auroc_axis,
    finish,
    label,
    series,
    span_of,
)
from halspan.reporting.plots.svg import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION

_FALSE_POSITIVES = (0.01, 0.05, 0.1, 0.2, 0.5)
_N_BINS = 15
_OF_KIND: dict[Kind, tuple[str, str]] = {
    "detector": (BLUE, "o"),
    "member": (GREEN, "^"),
    "baseline": (ORANGE, "s"),
    "control": (PURPLE, "D"),
}
_NOTES = {"member": " (member)"}
_FURTHEST = 0.15  # a cell this far from the mean of its row has the full color


def draw_comparison(rows: Sequence[Row]) -> Plot:
    """Draw the mean AUROC of each row of the paper's table, with its interval.

    Args:
        rows: Rows of the paper's table.
    """
    known = [row for row in rows if row.mean.figure.value is not None]
    sketch = _sketch_comparison(known) if known else "no row has an AUROC"
    return finish("comparison", "Comparison with baselines and controls", sketch)


def draw_generators(metrics: Mapping[str, Any], main: str) -> Plot:
    """Draw the AUROC of every generator: those that trained the detector, and those it never saw.

    Args:
        metrics: Content of `metrics.json`.
        main: Part that the detector is judged by.
    """
    bars = [
        _Bar(name, part, value, look_up(metrics, part, "ci95", f"sentence.auroc.by_generator.{name}"))
        for part in dict.fromkeys(("test_seen", main))
        for name, value in (look_up(metrics, part, "sentence", "auroc", "by_generator") or {}).items()
        if value is not None
    ]
    sketch = _sketch_generators(bars) if bars else "no generator has scored sentences of both classes"
    return finish("generators", "Generators, seen and never seen", sketch)


def draw_curves(predictions: Sequence[Prediction]) -> list[Plot]:
    """Draw the ROC of each generator, and the calibration of the probabilities.

    Args:
        predictions: Predictions of one part.
    """
    judged = judged_sentences(predictions)
    generators = sorted(set(judged.generator.tolist()))
    both = [name for name in generators if len(set(judged.incorrect[judged.generator == name])) == 2]
    roc = _sketch_roc(judged, both) if both else "no generator has scored sentences of both classes"
    calibration = _sketch_reliability(judged) if generators else "no sentence is both labeled and scored"
    return [
        finish("roc", "ROC of each generator", roc),
        finish("reliability", "Reliability", calibration),
    ]


def draw_preference(rows: Sequence[Row], generators: Sequence[str]) -> Plot:
    """Draw each row's AUROC per generator relative to the row's mean, with own-family cells outlined.

    Args:
        rows: Rows of the paper's table; controls are left out.
        generators: Generators of their cells.
    """
    known = [row for row in rows if row.kind != "control" and sum(cell.shown is not None for cell in row.cells) > 1]
    sketch = _sketch_preference(known, generators) if known else "no row has an AUROC on two generators or more"
    return finish("preference", "Self-preference", sketch)


@dataclass(frozen=True, slots=True)
class _Bar:
    """A generator's AUROC in a part, and the ends of its interval."""

    generator: str
    part: str
    value: float
    interval: Sequence[float] | None

    @property
    def ends(self) -> tuple[float, float]:
        low, high = self.interval or (self.value, self.value)
        return low, high


def _sketch_generators(bars: Sequence[_Bar]) -> Sketch:
    parts = list(dict.fromkeys(bar.part for bar in bars))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for part, style in zip(parts, (CORRECT, INCORRECT), strict=False):
            places = [place for place, bar in enumerate(bars) if bar.part == part]
            values = np.array([bars[place].value for place in places])
            ends = np.array([bars[place].ends for place in places])
            errors = np.abs(ends.T - values)
            color, marker = style["color"], style["marker"]
            axes.errorbar(values, places, xerr=errors, color=color, marker=marker, linestyle="", capsize=3, label=part)
        axes.set_yticks(range(len(bars)), [label(bar.generator) for bar in bars])
        axes.set(xlabel="sentence AUROC (bars: 95 % interval)", ylim=(len(bars) - 0.5, -0.5))
        auroc_axis(axes, [bar.value for bar in bars], along="x")
        axes.legend(loc="best")

    worst = min(bars, key=lambda bar: bar.value)
    ranges = [f"{part} {span_of([bar.value for bar in bars if bar.part == part])}" for part in parts]
    table = [(bar.generator, bar.part, show(bar.value), *map(show, bar.interval or (None, None))) for bar in bars]
    return Sketch(
        f"AUROC by generator: {', '.join(ranges)}; the hardest is {worst.generator} ({show(worst.value)}).",
        draw,
        (WIDE[0], 0.9 + 0.3 * len(bars)),
        Table(("generator", "part", "AUROC", "95 % from", "to"), table),
        narrow=1.1 + 0.3 * len(bars),
    )


def _sketch_comparison(rows: Sequence[Row]) -> Sketch:
    values = np.array([row.mean.figure.value for row in rows], dtype=np.float64)
    ends = np.array([row.mean.figure.interval or (value, value) for row, value in zip(rows, values, strict=True)])
    names = [f"{label(row.title)}{_NOTES.get(row.kind, '')}{' (random)' * row.random_weights}" for row in rows]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (row, value, (low, high)) in enumerate(zip(rows, values, ends, strict=True)):
            color, marker = _OF_KIND[row.kind]
            axes.errorbar(value, place, xerr=[[value - low], [high - value]], color=color, marker=marker, capsize=3)
        axes.set_yticks(range(len(rows)), names)
        axes.set(xlabel="sentence AUROC (mean over generators; bars: 95 % interval)", ylim=(len(rows) - 0.5, -0.5))
        auroc_axis(axes, values.tolist(), along="x")

    table = [
        (row.title, row.kind, show(value), *(map(show, row.mean.figure.interval or (None, None))))
        for row, value in zip(rows, values, strict=True)
    ]
    known = ", ".join(f"{row.title} {show(value)}" for row, value in zip(rows, values, strict=True))
    return Sketch(
        f"Mean AUROC: {known}; dotted: chance.",
        draw,
        (WIDE[0], 0.9 + 0.3 * len(rows)),
        Table(("row", "kind", "AUROC", "95 % from", "to"), table),
        narrow=1.1 + 0.3 * len(rows),
    )


def _sketch_roc(judged: JudgedSentences, generators: Sequence[str]) -> Sketch:
    masks = [judged.generator == name for name in generators]
    own = [(judged.rank[mask], judged.incorrect[mask]) for mask in masks]
    curves = [roc_curve(scores, labels) for scores, labels in own]
    areas = [auroc(scores, labels) for scores, labels in own]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        lines = [
            axes.plot(curve.fpr, curve.tpr, markevery=0.12, **series(index))[0]
            for index, curve in enumerate(curves)
            if curve is not None
        ]
        axes.plot([0, 1], [0, 1], **CHANCE)
        axes.set(xlabel="false positives (share of correct sentences)", ylabel="recall (share of incorrect sentences)")
        axes.legend(lines, [f"{label(name)} ({show(area)})" for name, area in zip(generators, areas, strict=True)])

    rows = [
        (name, show(area), *(show(recall_at_fpr(scores, labels, fpr=at)) for at in _FALSE_POSITIVES))
        for name, area, (scores, labels) in zip(generators, areas, own, strict=True)
    ]
    heads = ("generator", "AUROC", *(f"recall at {at:.0%} false positives" for at in _FALSE_POSITIVES))
    return Sketch(f"Area under the curve: {span_of(areas)}; dotted: chance.", draw, HALF, Table(heads, rows))


def _sketch_reliability(judged: JudgedSentences) -> Sketch:
    p, incorrect = judged.p_incorrect, judged.incorrect
    bins = reliability(p, incorrect, n_bins=_N_BINS)
    gaps = np.abs(bins.mean_probability - bins.share_incorrect)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], **CHANCE)
        above.plot(bins.mean_probability, bins.share_incorrect, color=GREEN, marker="^", linestyle="-")
        above.set(ylabel="share that is incorrect", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        _draw_histogram(below, judged)

    rows = [
        (show(float(mean)), show(float(share)), f"{int(n):,}")
        for mean, share, n in zip(bins.mean_probability, bins.share_incorrect, bins.count, strict=True)
    ]
    return Sketch(
        f"In {len(rows)} bins of equally many sentences, the mean P(incorrect) and the share that is incorrect "
        f"differ by at most {show(float(gaps.max()))}; on the dotted line they agree. "
        "Below: the number of sentences by score.",
        draw,
        HALF,
        Table(("mean P(incorrect)", "share incorrect", "sentences"), rows),
    )


def _draw_histogram(axes: Axes, judged: JudgedSentences) -> None:
    highest = 1
    for name, style, mask in (("incorrect", INCORRECT, judged.incorrect), ("correct", CORRECT, ~judged.incorrect)):
        counts, edges = np.histogram(judged.p_incorrect[mask], bins=20, range=(0, 1))
        highest = max(highest, int(counts.max()))
        axes.stairs(counts, edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.6, label=name)
    axes.set(xlabel="P(incorrect)", ylabel="sentences", ylim=(0, 1.5 * highest))  # room for the legend
    axes.legend(loc="upper center", ncols=2)


def _sketch_preference(rows: Sequence[Row], generators: Sequence[str]) -> Sketch:
    values = np.array([[cell.figure.value for cell in row.cells] for row in rows], dtype=np.float64)  # None becomes NaN
    relative = values / np.nanmean(values, axis=1, keepdims=True)
    ratios = [_own_ratio(row, generators) for row in rows]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.pcolormesh(relative, cmap=_map(), vmin=1 - _FURTHEST, vmax=1 + _FURTHEST, edgecolors="none")
        for (y, x), value in np.ndenumerate(relative):
            axes.text(x + 0.5, y + 0.5, MISSING if np.isnan(value) else f"{value:.2f}", ha="center", va="center")
            if rows[y].cells[x].is_own:
                axes.add_patch(Rectangle((x + 0.06, y + 0.08), 0.88, 0.84, fill=False, edgecolor=INK, linewidth=2))
        for y, ratio in enumerate(ratios):
            axes.text(len(generators) + 0.15, y + 0.5, f"own / mean: {show(ratio, 2)}", va="center")
        axes.set_xticks(np.arange(len(generators)) + 0.5, [label(name) for name in generators], rotation=30, ha="right")
        axes.set_yticks(np.arange(len(rows)) + 0.5, [label(row.title) for row in rows])
        axes.set(xlabel="generator", ylim=(len(rows), 0), xlim=(0, len(generators) + 1.4))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    table = [
        (row.title, row.family or "not known", *(show(None if np.isnan(v) else float(v)) for v in line), show(ratio))
        for row, line, ratio in zip(rows, relative, ratios, strict=True)
    ]
    return Sketch(
        _read_preference(rows, ratios),
        draw,
        (min(WIDE[0], 4.2 + 0.8 * len(generators)), 1.4 + 0.36 * len(rows)),
        Table(("row", "family", *generators, "own / mean"), table),
    )


def _own_ratio(row: Row, generators: Sequence[str]) -> float | None:
    by_generator = {name: cell.figure.value for name, cell in zip(generators, row.cells, strict=True)}
    return self_preference(by_generator, row.family) if row.family else None


def _read_preference(rows: Sequence[Row], ratios: Sequence[float | None]) -> str:
    cells = (
        "Each cell is the row's AUROC on a generator, divided by the mean of the row; above 1, the generator is easy."
    )
    known = [f"{row.title} ({row.family}) {show(ratio)}" for row, ratio in zip(rows, ratios, strict=True) if ratio]
    if known:
        return f"{cells} On generators of its own family (outlined) a detector has, over the mean: {', '.join(known)}."
    if any(row.family for row in rows):
        return f"{cells} No generator here is of the family of any row, so self-preference cannot be measured."
    return f"{cells} No row's family is known, so self-preference cannot be measured."


def _map() -> LinearSegmentedColormap:
    """Return a map from vermilion through transparent to blue; only opacity varies, for light and dark pages."""
    colors = [to_rgba(VERMILION, 0.6), to_rgba(VERMILION, 0), to_rgba(BLUE, 0), to_rgba(BLUE, 0.6)]
    return LinearSegmentedColormap.from_list("relative", list(zip((0, 0.5, 0.5, 1), colors, strict=True)))
