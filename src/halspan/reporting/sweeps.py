"""Results of a sweep: its runs side by side, with mean and standard deviation."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halspan.console import WholeTable, new_table
from halspan.reporting.tables import show

_TITLES = {
    "sentence.auroc.macro": "AUROC",
    "span.char.f1": "character F1",
    "span.typed_char_f1": "typed F1",
}


def main_figures(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures in `metrics.json` by which runs are compared, by dotted path."""
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
    """Summarize the runs of a sweep.

    Args:
        jobs: Name, folder, overrides, exit status, error and main figures of each run.

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


def sweep_tables(sweep: Mapping[str, Any]) -> Iterator[WholeTable | str]:
    """Return tables with one row per run, then mean and standard deviation; at the end, the failed runs.

    Args:
        sweep: Result of `summarize_sweep`.
    """
    by_part: dict[str, list[str]] = {}
    for path in sweep["summary"]:
        by_part.setdefault(path.partition(".")[0], []).append(path)
    for part, paths in by_part.items():
        yield _part_table(sweep, part, paths)
        yield ""
    for run in sweep["runs"]:
        if run["error"]:
            yield f"{run['run_name']} failed: {run['error']}"


def _label_runs(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Label each run by the overrides that not all of them share."""
    shared = set.intersection(*(set(run["overrides"]) for run in runs)) if runs else set()
    own = [" ".join(override for override in run["overrides"] if override not in shared) for run in runs]
    return [label or run["run_name"] for label, run in zip(own, runs, strict=True)]


def _part_table(sweep: Mapping[str, Any], part: str, paths: Sequence[str]) -> WholeTable:
    figures = [path.partition(".")[2] for path in paths]
    table = new_table(f"Sweep: {part}", "run", *(_TITLES.get(name, name) for name in figures))
    for label, run in zip(_label_runs(sweep["runs"]), sweep["runs"], strict=True):
        table.add_row(label, *(show(run["figures"].get(path)) for path in paths))
    table.add_section()
    for name in ("mean", "std"):
        table.add_row(name, *(show(sweep["summary"][path][name]) for path in paths), style="bold")
    return table
