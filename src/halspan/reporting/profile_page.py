"""The page of `trainer.profile`: where the time of an optimizer step goes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

import halspan
from halspan.core.files import write_text
from halspan.reporting.templating import build_environment, read_template

_WIDTH = 400  # of the longest bar, in the picture's own units
_SUMMED = ("seconds", "floor", "counted")


def write_profile_page(path: Path, profile: Mapping[str, Any], *, title: str) -> None:
    """Write the page of a measured run.

    Args:
        path: Place of the page.
        profile: Content of `profile.json`.
        title: Heading of the page.
    """
    total, parts = profile["seconds_per_step"], profile["parts"]
    longest = max(parts.values(), default=0.0) or 1.0
    rows = [
        {"name": name, "seconds": seconds, "share": seconds / total, "width": _WIDTH * seconds / longest}
        for name, seconds in parts.items()
    ]
    operations = [*(profile.get("operations") or ())]
    if operations:
        operations.append({"part": "all", **{key: sum(of[key] for of in operations) for key in _SUMMED}})
    page = build_environment().get_template("profile.html.j2")
    style = Markup(read_template("report.css"))
    facts = {"title": title, "version": halspan.__version__, "profile": profile, "rows": rows}
    write_text(path, page.render(**facts, operations=operations, style=style, gflop=_gflop))


def _gflop(operations: float) -> str:
    """Write a number of operations in thousands of millions."""
    value = operations / 1e9
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
