"""Figures from `metrics.json`, each with its interval, or with the reason why it is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "–"
NOT_COMPUTED = "not computed"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, or the reason why it is missing.

    Attributes:
        value: Value; None if there is none.
        interval: Lower and upper end of the 95 % interval, where there is one.
        reason: Reason why there is no value; empty if there is one.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    reason: str = ""


def part_names(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the parts that were judged, in order."""
    return tuple(name for name, part in metrics.items() if isinstance(part, Mapping) and {"n", "sentence"} <= set(part))


def main_part(metrics: Mapping[str, Any]) -> str | None:
    """Return the part that a detector is judged by: held-out generators, else everything, else the last; or None."""
    names = part_names(metrics)
    return next((name for name in ("test_heldout", "all") if name in names), names[-1] if names else None)


def find_figure(metrics: Mapping[str, Any], root: tuple[str, ...], path: str, *keys: str) -> Figure:
    """Return a figure and its interval.

    Args:
        metrics: Content of `metrics.json`.
        root: Keys of the entry that holds the figure and its interval: `("val",)`, `("baselines", "bow")`.
        path: Dotted path from there; nested in a part, a single key in a row of a table.
        keys: Further keys below that, which may contain dots: a generator, a type.
    """
    owner = look_up(metrics, *root)
    steps = (path,) if isinstance(owner, Mapping) and path in owner else tuple(path.split("."))
    value = look_up(owner, *steps, *keys)
    if value is None:
        return Figure(None, reason=find_reason(metrics, *root, *path.split("."), *keys))
    interval = look_up(owner, "ci95", ".".join((path, *keys)))
    return Figure(float(value), (interval[0], interval[1]) if interval else None)


def look_up(values: Any, *keys: str) -> Any:
    """Follow keys into nested mappings; None if one is missing."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def find_reason(metrics: Mapping[str, Any], *keys: str) -> str:
    """Return the reason why a figure is missing: its own, or that of the nearest entry above it."""
    reasons = metrics.get("reasons") or {}
    for n_keys in range(len(keys), 0, -1):
        if reason := reasons.get(".".join(keys[:n_keys])):
            return str(reason)
    return NOT_COMPUTED


def show(value: float | None, digits: int = 3) -> str:
    """Format a figure with a number of decimals, or as a dash if it is missing."""
    return MISSING if value is None else f"{value:.{digits}f}"
