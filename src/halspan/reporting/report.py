"""The report: one page that opens from disk, with figures, plots and captions; and the paper's table."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

import halspan
from halspan.core.captions import Prediction
from halspan.core.files import write_text
from halspan.reporting.figures import look_up, main_part, part_names
from halspan.reporting.gallery import OUTCOMES, ReadImage, gallery_data
from halspan.reporting.headline import FEWEST, NEAR, read_gain, read_headline, read_notes
from halspan.reporting.origin import origin_lines
from halspan.reporting.paper_table import PaperTable, paper_table, to_csv, to_markdown
from halspan.reporting.plain_words import explain_figures
from halspan.reporting.plots.drawing import Plot
from halspan.reporting.plots.scores import draw_comparison, draw_curves, draw_generators, draw_preference
from halspan.reporting.plots.slices import DRIFT, MIN_SENTENCES, draw_slices
from halspan.reporting.sections import (
    COUNTS,
    cost_lines,
    figure_groups,
    generator_lines,
    headline_cards,
    token_note,
    type_lines,
)
from halspan.reporting.templating import build_environment, read_template

_NO_THRESHOLD = 0.5
_PARTS = {
    "val": "images of the train generators that thresholds and calibration are fitted on",
    "test_seen": "train generators, images not seen in training",
    "test_heldout": "generators and images not seen in training",
    "all": "every caption of the corpus",
}


def write_report(
    folder: Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    parts: Mapping[str, Sequence[Prediction]],
    read_image: ReadImage,
    max_captions: int = 2000,
) -> None:
    """Write `report.html`, and the paper's table as `table.md` and `table.csv`.

    Args:
        folder: Output folder.
        title: Heading of the page.
        metrics: Content of `metrics.json`; missing figures are shown as missing, with the reason.
        parts: Predictions by the name of their part.
        read_image: Function that returns the image of a path, or raises DataError.
        max_captions: Largest number of captions in the gallery; beyond it, the gallery shows a sample and says so.
    """
    table = paper_table(metrics)
    thresholds = {part: look_up(metrics, part, "sentence", "threshold") for part in parts}
    captions = gallery_data(
        _main_first(parts, main_part(metrics)),
        thresholds={part: _NO_THRESHOLD if found is None else found for part, found in thresholds.items()},
        read_image=read_image,
        max_captions=max_captions,
    )
    write_text(folder / "table.md", to_markdown(table))
    write_text(folder / "table.csv", to_csv(table))
    write_text(folder / "report.html", _render(title, metrics, parts, table, captions))


def _render(
    title: str,
    metrics: Mapping[str, Any],
    parts: Mapping[str, Sequence[Prediction]],
    table: PaperTable,
    captions: Mapping[str, Any],
) -> str:
    environment = build_environment()
    script, style = read_template("report.js"), read_template("report.css")
    main = main_part(metrics)
    return environment.get_template("report.html.j2").render(
        title=title,
        version=halspan.__version__,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(style),
        detector=dict.fromkeys(("name", "backbone", "family", "random_weights")) | (metrics.get("detector") or {}),
        main=main,
        origin=list(origin_lines(metrics)),
        in_words=explain_figures(metrics, main) if main else [],
        parts=[_part(metrics, name) for name in part_names(metrics)],
        reading=read_headline(metrics, table.rows),
        notes=read_notes(metrics),
        gains=read_gain(metrics),
        cards=headline_cards(metrics, main, table.rows) if main else [],
        comparison=draw_comparison(table.rows),
        table=table,
        downloads={
            "table.md": _data_uri("text/markdown", to_markdown(table)),
            "table.csv": _data_uri("text/csv", to_csv(table)),
        },
        groups=figure_groups(metrics),
        token_note=token_note(metrics),
        plots=_plots(metrics, main, parts, table),
        costs=list(cost_lines(metrics, table.rows)),
        captions=captions,
        outcomes=OUTCOMES,
        limits={"near": NEAR, "fewest": FEWEST, "drift": DRIFT, "min_sentences": MIN_SENTENCES},
        reasons=metrics.get("reasons") or {},
    )


def _part(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
    counts = metrics[name]["n"]
    return {
        "name": name,
        "note": _PARTS.get(name, ""),
        "counts": {title: counts.get(key) for key, title in COUNTS.items()},
        "generators": generator_lines(metrics, name),
        "types": type_lines(metrics, name),
    }


def _plots(
    metrics: Mapping[str, Any], main: str | None, parts: Mapping[str, Sequence[Prediction]], table: PaperTable
) -> list[Plot]:
    if main is None:
        return [draw_preference(table.rows, table.generators)]
    curves = draw_curves(parts.get(main, ()))
    preference = draw_preference(table.rows, table.generators)
    return [draw_generators(metrics, main), *curves, *draw_slices(metrics, main), preference]


def _main_first(parts: Mapping[str, Sequence[Prediction]], main: str | None) -> dict[str, Sequence[Prediction]]:
    """Order the parts so that the main part comes first."""
    return dict(sorted(parts.items(), key=lambda item: item[0] != main))


def _data_uri(kind: str, text: str) -> str:
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"
