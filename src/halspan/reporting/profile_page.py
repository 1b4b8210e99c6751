"""The page of `trainer.profile`: where the time of an optimizer step goes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

import halspan
from halspan.core.files import write_text
from halspan.reporting.templating import build_environment, read_template

_WIDTH = 400  # of the longest bar, in the picture's own units


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
    page = build_environment().get_template("profile.html.j2")
    style = Markup(read_template("report.css"))
    write_text(path, page.render(title=title, version=halspan.__version__, style=style, profile=profile, rows=rows))
