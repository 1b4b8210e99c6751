"""What the figures of the main part say, in sentences that a reader can hold the figures against."""

from collections.abc import Mapping, Sequence
from typing import Any

from halspan.reporting.figures import Figure, look_up, show
from halspan.reporting.paper_table import Row

NEAR = 0.05
"""AUROC by which a control may exceed the best image-blind baseline and still be called near it."""
_CHANCE = 0.5


def best_blind_baseline(rows: Sequence[Row]) -> Row | None:
    """Find the image-blind baseline with the highest AUROC, None if no such baseline has one."""
    known = [row for row in rows if row.image_blind and row.mean.figure.value is not None]
    return max(known, key=lambda row: row.mean.figure.value or 0.0, default=None)


def read_headline(rows: Sequence[Row]) -> str:
    """Say how well the detector does, and whether it has shown that it looks at the image.

    It has if the lower end of its interval lies above the upper ends of both its own AUROC with exchanged images and
    the best image-blind baseline; one of the two alone is not enough. Without an interval the figure stands for both
    ends.

    Args:
        rows: of the paper's table.
    """
    detector = next(
        (row.mean.figure for row in rows if row.kind == "detector"), Figure(None, reason="nothing was judged")
    )
    if detector.value is None:
        return f"There is no AUROC of the detector: {detector.reason}."
    told = f"The detector tells incorrect sentences from correct ones with an AUROC of {with_interval(detector)}"
    low, _ = _ends(detector)
    if low <= _CHANCE:
        return f"{told}, which is not shown to be better than chance ({_CHANCE})."
    blind = next(
        (row.mean.figure for row in rows if row.name == "blind"), Figure(None, reason="they were not exchanged")
    )
    return f"{told}{_read_controls(low, blind, best_blind_baseline(rows))}"


def read_gain(metrics: Mapping[str, Any]) -> list[str]:
    """Say what an ensemble gains over its best member; nothing where there is no ensemble."""
    gain = metrics.get("gain") or {}
    return [
        f"Over its best member, {gain['over']}, {name} changes by {_signed(gain[path])}."
        for path, name in (("sentence.auroc.macro", "sentence AUROC"), ("span.char.f1", "character F1"))
        if look_up(gain, path, "difference") is not None
    ]


def with_interval(figure: Figure) -> str:
    """Write a figure that is there, with its interval if it has one."""
    if figure.interval is None:
        return f"{show(figure.value)} (no interval)"
    return f"{show(figure.value)} (95 % interval {show(figure.interval[0])} to {show(figure.interval[1])})"


def _read_controls(low: float, blind: Figure, baseline: Row | None) -> str:
    best = baseline.mean.figure if baseline else None
    if baseline and best and low <= _ends(best)[1]:
        return (
            f"; the best image-blind baseline ({baseline.title}) reaches {with_interval(best)}, "
            "so it has not shown that it looks at the image."
        )
    if blind.value is None:
        return f"; with exchanged images there is no figure ({blind.reason}), so whether it looks at the image is open."
    if low <= _ends(blind)[1]:
        return (
            f"; with exchanged images it still reaches {with_interval(blind)}, "
            "so it has not shown that it looks at the image."
        )
    fall = f"; with exchanged images it falls to {show(blind.value)}"
    if baseline is None or best is None or best.value is None:
        return f"{fall}, so it looks at the image; there is no image-blind baseline to hold that against."
    named = f"the best image-blind baseline ({baseline.title}, {show(best.value)})"
    if blind.value > best.value + NEAR:
        return f"{fall}: it looks at the image, but tells more from the text alone than {named}."
    return f"{fall}, {'below' if blind.value < best.value - NEAR else 'near'} {named}, so it looks at the image."


def _signed(gain: Mapping[str, Any]) -> str:
    text = f"{gain['difference']:+.3f}"
    if gain.get("low") is None:
        return text
    interval = f"95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}"
    return f"{text} ({interval}; better in {gain['p_a_better']:.0%} of the draws)"


def _ends(figure: Figure) -> tuple[float, float]:
    """Give the ends of a figure's interval; the figure itself is both if there is none."""
    value = 0.0 if figure.value is None else figure.value
    return figure.interval or (value, value)
