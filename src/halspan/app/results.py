"""The results of an evaluation for people: `metrics.json`, the report, and a table on the screen."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halspan.console import open_console
from halspan.core.captions import Prediction
from halspan.core.errors import ConfigError
from halspan.core.files import write_json
from halspan.data.images import load_image
from halspan.evaluation.saved_run import read_record
from halspan.inference.card import headline
from halspan.reporting.headline import read_notes
from halspan.reporting.sweeps import main_figures
from halspan.reporting.tables import metrics_table

logger = logging.getLogger(__name__)


def leave_figures(metrics: Mapping[str, Any], parts: Mapping[str, Sequence[Prediction]], folder: Path) -> bool:
    """Write `report.html` with its tables where the libraries for it are installed, and then `metrics.json`.

    A run that has `metrics.json` is finished, so whatever ends the process before leaves a run that `resume=true`
    judges again.

    Returns:
        Whether there is a report.
    """
    is_reported = _leave_report(metrics, parts, folder)
    write_json(folder / "metrics.json", metrics)
    return is_reported


def _leave_report(metrics: Mapping[str, Any], parts: Mapping[str, Sequence[Prediction]], folder: Path) -> bool:
    try:
        from halspan.reporting.report import write_report  # needs matplotlib and jinja2, which scoring does without
    except ImportError as error:
        logger.warning("no report.html: %s is not installed (pip install 'halspan[eval]')", error.name)
        return False
    write_report(
        folder,
        title=metrics["detector"]["name"],
        metrics=metrics,
        parts=parts,
        read_image=lambda path: load_image(Path(path)),
    )
    return True


def show_figures(metrics: Mapping[str, Any], folder: Path) -> None:
    """Show the figures and the places of the files."""
    console = open_console()
    console.print(metrics_table(metrics))
    for note in read_notes(metrics):
        console.print(note, markup=False)
    console.print(f"Figures: {folder / 'metrics.json'}   predictions: {folder / 'predictions'}", soft_wrap=True)


def read_figures(file: Path) -> dict[str, Any]:
    """Read `metrics.json`, and check that it can be shown.

    Raises:
        ConfigError: The file is not one that a run writes.
    """
    metrics = read_record(file)
    try:
        for show in (metrics_table, read_notes, main_figures, headline):
            show(metrics)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{file}: is not what a run writes ({type(error).__name__}: {' '.join(str(error).split())[:100]}); restore "
            "it, or judge the run again (evaluate.py)"
        ) from None
    return metrics
