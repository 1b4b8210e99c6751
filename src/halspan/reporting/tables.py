"""What is shown on the screen: how much of a detector is trained, and how good it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from halspan.models.inventory import Weights, gib

PLAIN: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "collapse_padding": True}
_FIGURES = {"AUROC": "sentence.auroc", "char F1": "span.char.f1", "typed F1": "span.typed_char_f1"}


def trainable_table(components: Mapping[str, tuple[int, int]]) -> Table:
    """Show how many parameters of each component are trained.

    Args:
        components: by name, how many parameters are trained and how many there are.
    """
    table = Table(title="Parameters", **PLAIN)
    for column in ("component", "trained", "all", "share"):
        table.add_column(column, justify="left" if column == "component" else "right")
    total = tuple(sum(counts) for counts in zip(*components.values(), strict=True))
    for name, (trained, everything) in {**components, "all": total}.items():
        table.add_row(name, f"{trained:,}", f"{everything:,}", f"{trained / everything:.1%}" if everything else "")
    return table


def weights_table(weights: Sequence[Weights]) -> Table:
    """Show parameters and bytes by component and dtype, and altogether."""
    table = Table(title="Weights", **PLAIN)
    for column in ("component", "dtype", "parameters", "size"):
        table.add_column(column, justify="left" if column in ("component", "dtype") else "right")
    for part in weights:
        table.add_row(part.component, part.dtype, f"{part.parameters:,}", gib(part.bytes))
    table.add_section()
    n, size = sum(part.parameters for part in weights), sum(part.bytes for part in weights)
    table.add_row("all", "", f"{n:,}", gib(size), style="bold")
    return table


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Show the figures of each part and generator, with those of controls, baselines and members below.

    Args:
        metrics: what `metrics.json` holds.
    """
    table = Table(title="Incorrect sentences (AUROC) and hallucinated words (F1)", **PLAIN)
    for column in ("part", "generator", "captions", "wrong", "AUROC", "95 %", *list(_FIGURES)[1:]):
        is_name = column in ("part", "generator")
        table.add_column(column, justify="left" if is_name else "right", no_wrap=column != "generator")
    for part, figures in metrics.items():
        if "by_generator" not in figures:
            continue
        auroc, *of_words = _main_figures(figures)
        table.add_row(part, "all", *_counts(figures["n"]), auroc, _interval(figures), *of_words, style="bold")
        for generator, row in figures["by_generator"].items():
            auroc, *of_words = (show(row[path]) for path in _FIGURES.values())
            interval = _interval(figures, f"sentence.auroc.by_generator.{generator}")
            table.add_row("", generator, *_counts(row["n"]), auroc, interval, *of_words)
        table.add_section()
    for row in (*_controls(metrics), *metrics.get("members", {}).values()):
        title = f"{row['title']} (random weights)" if row.get("random_weights") else row["title"]
        figures = show(row["sentence.auroc.macro"]), _interval(row), show(row.get("span.char.f1")), ""
        table.add_row("", title, "", "", *figures)
    return table


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
