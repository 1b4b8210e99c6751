"""The figures of the main part as sentences, each next to the value it should be compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

from halspan.reporting.figures import Figure, find_figure, find_reason, look_up, main_part, part_names, show
from halspan.reporting.paper_table import Row

NEAR = 0.05
"""Largest AUROC by which a control may exceed the best image-blind baseline and still be called near it."""
FEWEST = 20
"""Fewest sentences of each class, and images, for a conclusion on whether a detector looks at the image.

With n sentences of each class, AUROC at chance has a standard error of sqrt((2 n + 1) / (12 n^2)) (Mann and Whitney,
1947): 0.09 for 20 of each, 0.13 for 10, 0.19 for 5. With fewer, chance alone spans most of the way to a good detector,
and an interval by resampling is too short: where few sentences happen to be ranked without an error, it has no width.
"""
_CHANCE = 0.5
_OPEN = "whether it looks at the image remains open"
_WITHOUT = "without_train_texts"


def best_blind_baseline(rows: Sequence[Row]) -> Row | None:
    """Return the image-blind baseline with the highest AUROC; None if no such baseline has one."""
    known = [row for row in rows if row.image_blind and row.mean.figure.value is not None]
    return max(known, key=lambda row: row.mean.figure.value or 0.0, default=None)


def read_headline(metrics: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Describe how well the detector works, and whether the figures show that it looks at the image.

    They show it if the lower end of its interval is above the upper ends of both its own AUROC with exchanged images
    and the best image-blind baseline; one of the two is not enough. If an interval is missing, or there are fewer data
    than `FEWEST`, the question is open.

    Args:
        metrics: Content of `metrics.json`.
        rows: Rows of the paper's table.
    """
    detector = next(
        (row.mean.figure for row in rows if row.kind == "detector"), Figure(None, reason="nothing was judged")
    )
    if detector.value is None:
        return f"There is no AUROC of the detector: {detector.reason}."
    told = f"The detector tells incorrect sentences from correct ones with an AUROC of {with_interval(detector)}"
    if why := _why_open(metrics, detector):
        return f"{told}; {why}, so {_OPEN}."
    low, _ = _ends(detector)
    if low <= _CHANCE:
        return f"{told}, which is not shown to be better than chance ({_CHANCE})."
    blind = next(
        (row.mean.figure for row in rows if row.name == "blind"), Figure(None, reason="they were not exchanged")
    )
    return f"{told}{_read_controls(low, blind, best_blind_baseline(rows))}"


def read_notes(metrics: Mapping[str, Any]) -> list[str]:
    """List what is missing from parts: captions not sampled or left out, and figures without texts of train."""
    return [
        note
        for part in part_names(metrics)
        for note in (_note_sample(metrics, part), _note_left_out(metrics, part), _note_texts(metrics, part))
        if note
    ]


def read_gain(metrics: Mapping[str, Any]) -> list[str]:
    """Describe the gain of an ensemble over its best member; empty where there is no ensemble."""
    gain = metrics.get("gain") or {}
    return [
        f"Over its best member, {gain['over']}, {name} changes by {_signed(gain[path])}."
        for path, name in (("sentence.auroc.macro", "sentence AUROC"), ("span.char.f1", "character F1"))
        if look_up(gain, path, "difference") is not None
    ]


def with_interval(figure: Figure) -> str:
    """Format a figure that exists, with its interval if it has one."""
    if figure.interval is None:
        return f"{show(figure.value)} (no interval)"
    return f"{show(figure.value)} (95 % interval {show(figure.interval[0])} to {show(figure.interval[1])})"


def _note_sample(metrics: Mapping[str, Any], part: str) -> str:
    n = look_up(metrics, part, "n") or {}
    if not n.get("sampled_from"):
        return ""
    return f"{part}: {n['captions']:,} of {n['sampled_from']:,} captions were judged (judge.captions)."


def _note_left_out(metrics: Mapping[str, Any], part: str) -> str:
    n = look_up(metrics, part, "n", "left_out")
    return f"{part}: {find_reason(metrics, part, 'n', 'left_out')}." if n else ""


def _note_texts(metrics: Mapping[str, Any], part: str) -> str:
    n = look_up(metrics, part, "n") or {}
    if not n.get("sentences_in_train"):
        return ""
    auroc = find_figure(metrics, (part, _WITHOUT), "sentence.auroc.macro")
    said = f"none, {auroc.reason}" if auroc.value is None else with_interval(auroc)
    return (
        f"{part}: {n['sentences_in_train']:,} of {n['sentences']:,} sentences and {n['captions_in_train']:,} of "
        f"{n['captions']:,} captions occur word for word in train; AUROC without them: {said}."
    )


def _why_open(metrics: Mapping[str, Any], detector: Figure) -> str:
    """Return the reason why no conclusion follows from the detector's figure; empty if one may."""
    part = main_part(metrics) or ""
    incorrect, correct = (_count_judged(metrics, part, label) for label in ("incorrect", "correct"))
    images = look_up(metrics, part, "n", "images") or 0
    if min(incorrect, correct, images) < FEWEST:
        return (
            f"it rests on {incorrect:,} incorrect and {correct:,} correct sentences of {images:,} images, and fewer "
            f"than {FEWEST} of any of these are too few"
        )
    if detector.interval is None:
        return f"its interval is not known ({find_reason(metrics, part, 'ci95', 'sentence', 'auroc', 'macro')})"
    return ""


def _count_judged(metrics: Mapping[str, Any], part: str, label: str) -> int:
    """Count the scored sentences with a label, in both directions."""
    slices = look_up(metrics, part, "slices", "direction") or {}
    return sum(look_up(each, "n", label) or 0 for each in slices.values())


def _read_controls(low: float, blind: Figure, baseline: Row | None) -> str:
    best = baseline.mean.figure if baseline else None
    if baseline and best and low <= _ends(best)[1]:
        return (
            f"; the best image-blind baseline ({baseline.title}) reaches {with_interval(best)}, "
            "so it has not shown that it looks at the image."
        )
    if blind.value is None:
        return f"; with exchanged images there is no figure ({blind.reason}), so {_OPEN}."
    if low <= _ends(blind)[1]:
        return (
            f"; with exchanged images it still reaches {with_interval(blind)}, "
            "so it has not shown that it looks at the image."
        )
    return f"; with exchanged images it falls to {show(blind.value)}{_read_fall(blind, blind.value, baseline)}"


def _read_fall(blind: Figure, value: float, baseline: Row | None) -> str:
    """Describe the conclusion where the detector is above both controls, as far as intervals are known."""
    if blind.interval is None:
        return f" (no interval), so {_OPEN}."
    if baseline is None or baseline.mean.figure.value is None:
        return ", so it looks at the image; there is no image-blind baseline to compare it with."
    best = baseline.mean.figure.value
    named = f"the best image-blind baseline ({baseline.title}, {show(best)})"
    if baseline.mean.figure.interval is None:
        return f"; {named} has no interval, so {_OPEN}."
    if value > best + NEAR:
        return f": it looks at the image, but tells more from the text alone than {named}."
    return f", {'below' if value < best - NEAR else 'near'} {named}, so it looks at the image."


def _signed(gain: Mapping[str, Any]) -> str:
    text = f"{gain['difference']:+.3f}"
    if gain.get("low") is None:
        return text
    interval = f"95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}"
    return f"{text} ({interval}; better in {gain['p_a_better']:.0%} of the draws)"


def _ends(figure: Figure) -> tuple[float, float]:
    """Return the ends of a figure's interval; without an interval, both are the figure itself."""
    value = 0.0 if figure.value is None else figure.value
    return figure.interval or (value, value)
