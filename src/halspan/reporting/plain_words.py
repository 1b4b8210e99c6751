"""The main figures in words, for readers who know neither AUROC nor F1."""

from collections.abc import Mapping
from typing import Any

from halspan.reporting.figures import look_up


def explain_figures(metrics: Mapping[str, Any], part: str) -> list[str]:
    """Explain the figures of a part in words, one sentence for each figure that exists.

    Args:
        metrics: Content of `metrics.json`.
        part: The part's name.
    """
    auroc = look_up(metrics, part, "sentence", "auroc", "macro")
    rates = [look_up(metrics, part, "span", "char", rate) for rate in ("precision", "recall", "f1")]
    sentences = []
    if auroc is not None:
        sentences.append(
            f"Given an incorrect and a correct sentence of the same generator, the detector gives the incorrect one "
            f"the higher score in {_share(auroc)} of cases (AUROC {auroc:.3f}); guessing does so in 50 %."
        )
    if None not in rates:
        precision, recall, f1 = rates
        sentences.append(
            f"Of the text that it marks, {_share(precision)} is hallucinated; of the hallucinated text, it marks "
            f"{_share(recall)} (character F1 {f1:.3f} combines the two: 1 is perfect, 0 is useless)."
        )
    return sentences


def _share(value: float) -> str:
    """Format a share in percent; only 0 and 1 are shown as 0 % and 100 %."""
    if 0 < value < 0.01:
        return "less than 1 %"
    if 0.99 < value < 1:
        return "more than 99 %"
    return f"{value:.0%}".replace("%", " %")
