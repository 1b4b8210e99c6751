"""Figures out of `metrics.json`, each with its interval, or with the reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "–"
NOT_COMPUTED = "not computed"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, or why there is none.

    Attributes:
        value: None if there is none.
        interval: lower and upper end of the 95 % interval, where there is one.
        reason: why there is no value; empty if there is one.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    reason: str = ""


def part_names(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the parts that were judged, in their order."""
    return tuple(name for name, part in metrics.items() if isinstance(part, Mapping) and {"n", "sentence"} <= set(part))


def main_part(metrics: Mapping[str, Any]) -> str | None:
    """Name the part that a detector is judged by: held-out generators, else everything, else the last; None if none."""
    names = part_names(metrics)
    return next((name for name in ("test_heldout", "all") if name in names), names[-1] if names else None)


def find_figure(metrics: Mapping[str, Any], root: tuple[str, ...], path: str, *keys: str) -> Figure:
    """Find a figure and its interval.

    Args:
        metrics: what `metrics.json` holds.
        root: keys of what the figure belongs to, which also holds its interval: `("val",)`, `("baselines", "bow")`.
        path: where the figure is from there, dotted: a part nests it, a row of a table has it as one key.
        keys: further keys below that, which may hold dots: a generator, a type.
    """
    owner = look_up(metrics, *root)
    steps = (path,) if isinstance(owner, Mapping) and path in owner else tuple(path.split("."))
    value = look_up(owner, *steps, *keys)
    if value is None:
        return Figure(None, reason=find_reason(metrics, *root, *path.split("."), *keys))
    interval = look_up(owner, "ci95", ".".join((path, *keys)))
    return Figure(float(value), (interval[0], interval[1]) if interval else None)


def look_up(values: Any, *keys: str) -> Any:
    """Follow keys into nested mappings; None where one is not there."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def find_reason(metrics: Mapping[str, Any], *keys: str) -> str:
    """Say why something is missing: its own reason, else that of the nearest thing it belongs to."""
    reasons = metrics.get("reasons") or {}
    for n_keys in range(len(keys), 0, -1):
        if reason := reasons.get(".".join(keys[:n_keys])):
            return str(reason)
    return NOT_COMPUTED


def show(value: float | None, digits: int = 3) -> str:
    """Write a figure with so many decimals, or a dash where there is none."""
    return MISSING if value is None else f"{value:.{digits}f}"
