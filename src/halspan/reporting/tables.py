"""What is shown on the screen: how much of a detector is trained, and how good it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from halspan.console import WholeTable, new_table
from halspan.models.inventory import Weights, gib

_FIGURES = {"AUROC": "sentence.auroc", "char F1": "span.char.f1", "typed F1": "span.typed_char_f1"}


def trainable_table(components: Mapping[str, tuple[int, int]]) -> WholeTable:
    """Show how many parameters of each component are trained.

    Args:
        components: by name, how many parameters are trained and how many there are.
    """
    table = new_table("Parameters", "component", "trained", "all", "share")
    total = tuple(sum(counts) for counts in zip(*components.values(), strict=True))
    for name, (trained, everything) in {**components, "all": total}.items():
        table.add_row(name, f"{trained:,}", f"{everything:,}", f"{trained / everything:.1%}" if everything else "")
    return table


def weights_table(weights: Sequence[Weights]) -> WholeTable:
    """Show parameters and bytes by component and dtype, and altogether."""
    table = new_table("Weights", "component", "dtype", "parameters", "size", left=2)
    for part in weights:
        table.add_row(part.component, part.dtype, f"{part.parameters:,}", gib(part.bytes))
    table.add_section()
    n, size = sum(part.parameters for part in weights), sum(part.bytes for part in weights)
    table.add_row("all", "", f"{n:,}", gib(size), style="bold")
    return table


def metrics_table(metrics: Mapping[str, Any]) -> WholeTable:
    """Show the figures of each part and generator, with those of controls, baselines and members below.

    Args:
        metrics: what `metrics.json` holds.
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
    """Find the figures without texts of train; None where they are those of the whole part, or not known."""
    return figures.get("without_train_texts") if figures["n"].get("sentences_in_train") else None


def _controls(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give the rows of what judges without the images, and of the other baselines."""
    return [*(metrics[name] for name in ("blind", "blank") if name in metrics), *metrics.get("baselines", {}).values()]


def _interval(figures: Mapping[str, Any], path: str = "sentence.auroc.macro") -> str:
    limits = figures.get("ci95", {}).get(path)
    return "" if limits is None else "-".join(map(show, limits))


def show(figure: float | None) -> str:
    """Write a figure from 0 to 1, or a dash where there is none."""
    return "-" if figure is None else f"{figure:.3f}"


def _main_figures(figures: Mapping[str, Any]) -> tuple[str, str, str]:
    span = figures["span"]
    return show(figures["sentence"]["auroc"]["macro"]), show(span["char"]["f1"]), show(span["typed_char_f1"])


def _counts(n: Mapping[str, int]) -> tuple[str, str]:
    n_labelled = n["sentences"] - n["unknown"]
    return f"{n['captions']:,}", f"{n['incorrect'] / n_labelled:.0%}" if n_labelled else "-"
