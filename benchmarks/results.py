"""Write the figures of the benchmarks into RESULTS.md, a section for each."""

import os
import platform
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def machine() -> str:
    """Name the machine that the figures are of."""
    return f"{os.cpu_count()} cores ({platform.processor() or platform.machine()}), no GPU"


def write_section(heading: str, lines: Sequence[str]) -> None:
    """Put a section in the place of the one of its heading, or at the end, and print it."""
    section = "\n".join([heading, "", *map(_wrap, lines), ""])
    before = RESULTS.read_text(encoding="utf-8")
    place = re.search(rf"^{re.escape(heading)}\n.*?(?=^## |\Z)", before, flags=re.DOTALL | re.MULTILINE)
    start, stop = place.span() if place else (len(before), len(before))
    parts = (before[:start].rstrip(), section.rstrip(), before[stop:].strip())
    RESULTS.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    print(section)


def _wrap(line: str) -> str:
    """Wrap prose as the documents are; rows of tables stay whole."""
    return line if line.startswith("|") else textwrap.fill(line, 100, break_long_words=False, break_on_hyphens=False)
