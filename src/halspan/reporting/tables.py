"""Tables on the screen that show the figures of a detector."""

from collections.abc import Mapping
from typing import Any

from halspan.console import WholeTable, new_table

_FIGURES = {"AUROC": "sentence.auroc", "char F1": "span.char.f1", "typed F1": "span.typed_char_f1"}


def metrics_table(metrics: Mapping[str, Any]) -> WholeTable:
    """Return a table of each part and generator, followed by controls, baselines and members.

    Args:
        metrics: Content of `metrics.json`.
    """
    auroc, *of_words = _FIGURES
    columns = ("part, generator", "captions", "wrong", auroc, "95 %", *of_words)
    table = new_table("Incorrect sentences (AUROC) and hallucinated words (F1)", *columns)
    for part, figures in metrics.items():
        if "by_generator" not in figures:
            continue
        auroc, *of_words = _main_figures(figures)
        table.add_row(part, *_counts(figures["n"]), auroc, _interval(figures), *of_words, style="bold")
        if left := _without_train_texts(figures):
            auroc, *of_words = _main_figures(left)
            table.add_row("  without texts of train", *_counts(left["n"]), auroc, _interval(left), *of_words)
        for generator, row in figures["by_generator"].items():
            auroc, *of_words = (show(row[path]) for path in _FIGURES.values())
            interval = _interval(figures, f"sentence.auroc.by_generator.{generator}")
            table.add_row(f"  {generator}", *_counts(row["n"]), auroc, interval, *of_words)
        table.add_section()
    for row in (*_controls(metrics), *metrics.get("members", {}).values()):
        title = f"{row['title']} (random weights)" if row.get("random_weights") else row["title"]
        figures = show(row["sentence.auroc.macro"]), _interval(row), show(row.get("span.char.f1")), ""
        table.add_row(title, "", "", *figures)
    return table


def _without_train_texts(figures: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the figures without texts of train; None if they equal those of the whole part or are not known."""
    return figures.get("without_train_texts") if figures["n"].get("sentences_in_train") else None


def _controls(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of image-blind controls, and of the other baselines."""
    return [*(metrics[name] for name in ("blind", "blank") if name in metrics), *metrics.get("baselines", {}).values()]


def _interval(figures: Mapping[str, Any], path: str = "sentence.auroc.macro") -> str:
    limits = figures.get("ci95", {}).get(path)
    return "" if limits is None else "-".join(map(show, limits))


def show(figure: float | None) -> str:
    """Format a figure from 0 to 1, or a dash if it is missing."""
    return "-" if figure is None else f"{figure:.3f}"


def _main_figures(figures: Mapping[str, Any]) -> tuple[str, str, str]:
    span = figures["span"]
    return show(figures["sentence"]["auroc"]["macro"]), show(span["char"]["f1"]), show(span["typed_char_f1"])


def _counts(n: Mapping[str, int]) -> tuple[str, str]:
    n_labeled = n["sentences"] - n["unknown"]
    return f"{n['captions']:,}", f"{n['incorrect'] / n_labeled:.0%}" if n_labeled else "-"
