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
    """Show the figures of each part and generator, with the image-blind ones beside the held-out part.

    Args:
        metrics: what `metrics.json` holds.
    """
    table = Table(title="Incorrect sentences (AUROC) and hallucinated words (F1)", **PLAIN)
    for column in ("part", "generator", "captions", "wrong", *_FIGURES):
        table.add_column(column, justify="left" if column in ("part", "generator") else "right", no_wrap=True)
    for part, figures in metrics.items():
        if "by_generator" not in figures:
            continue
        n = figures["n"]
        table.add_row(part, "all", *_counts(n), *_main_figures(figures), style="bold")
        for generator, row in figures["by_generator"].items():
            table.add_row("", generator, *_counts(row["n"]), *(show(row[path]) for path in _FIGURES.values()))
        table.add_section()
    for name, figures in _controls(metrics).items():
        table.add_row("test_heldout", name, "", "", show(figures["sentence.auroc.macro"]), "", "")
    return table


def _controls(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Name what judges held-out captions without their images: the detector itself, and the baselines."""
    blind = {"images exchanged": metrics["blind"]} if "blind" in metrics else {}
    return blind | {f"{name.replace('_', ' ')} alone": row for name, row in metrics.get("baselines", {}).items()}


def show(figure: float | None) -> str:
    """Write a figure from 0 to 1, or a dash where there is none."""
    return "-" if figure is None else f"{figure:.3f}"


def _main_figures(figures: Mapping[str, Any]) -> tuple[str, str, str]:
    span = figures["span"]
    return show(figures["sentence"]["auroc"]["macro"]), show(span["char"]["f1"]), show(span["typed_char_f1"])


def _counts(n: Mapping[str, int]) -> tuple[str, str]:
    n_labelled = n["sentences"] - n["unknown"]
    return f"{n['captions']:,}", f"{n['incorrect'] / n_labelled:.0%}" if n_labelled else "-"
