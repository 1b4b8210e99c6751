"""What a sweep came to: its runs side by side, their mean and standard deviation."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from halspan.reporting.tables import PLAIN, show


def main_figures(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Pick the figures that runs are compared by from what `metrics.json` holds, by dotted path."""
    figures: dict[str, float | None] = {}
    for part in ("test_heldout", "test_seen"):
        if part in metrics:
            figures[f"{part}.sentence.auroc.macro"] = metrics[part]["sentence"]["auroc"]["macro"]
            figures[f"{part}.span.char.f1"] = metrics[part]["span"]["char"]["f1"]
            figures[f"{part}.span.typed_char_f1"] = metrics[part]["span"]["typed_char_f1"]
    if "blind" in metrics:
        figures["blind.sentence.auroc.macro"] = metrics["blind"]["sentence.auroc.macro"]
    return figures


def summarize_sweep(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the runs of a sweep together.

    Args:
        jobs: name, folder, overrides, exit status, error and main figures of each run.

    Returns:
        `runs` as given, and `summary`: mean, sample standard deviation (null for fewer than two) and number of runs
        of each figure, over the runs that have it.
    """
    paths = dict.fromkeys(path for job in jobs for path in job["figures"])
    summary = {}
    for path in paths:
        values = [value for job in jobs if (value := job["figures"].get(path)) is not None]
        summary[path] = {
            "mean": statistics.fmean(values) if values else None,
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "n": len(values),
        }
    return {"runs": list(jobs), "summary": summary}


def sweep_table(sweep: Mapping[str, Any]) -> Table:
    """Show one row per run, then mean and standard deviation.

    Args:
        sweep: what `summarize_sweep` gave.
    """
    table = Table(title="Sweep", **PLAIN)
    table.add_column("run", overflow="fold")
    for path in sweep["summary"]:
        table.add_column(path.replace(".", " "), justify="right")
    for run in sweep["runs"]:
        figures = [show(run["figures"].get(path)) for path in sweep["summary"]]
        table.add_row(run["run_name"], *figures)
        if run["error"]:
            table.add_row(f"[red]{run['error']}")
    table.add_section()
    for name in ("mean", "std"):
        table.add_row(name, *(show(figures[name]) for figures in sweep["summary"].values()), style="bold")
    return table
