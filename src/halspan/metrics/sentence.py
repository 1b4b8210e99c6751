"""How well probabilities tell incorrect sentences from correct ones; the positive class is incorrect.

Axis: `sentence`.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

Scores = Float[ndarray, "sentence"]
Labels = Bool[ndarray, "sentence"]


def auroc(scores: Scores, labels: Labels) -> float | None:
    """Area under the ROC curve: how often an incorrect sentence scores above a correct one, a tie counting half.

    Args:
        scores: higher means more likely incorrect.
        labels: true for incorrect.

    Returns:
        Exact, by ranks (Mann-Whitney U); None if there is only one class.
    """
    n_positive = int(labels.sum())
    n_negative = len(labels) - n_positive
    if not n_positive or not n_negative:
        return None
    u = _mean_ranks(scores)[labels].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


def average_precision(scores: Scores, labels: Labels) -> float | None:
    """Area under the precision-recall curve: precision at each distinct score, weighted by the recall gained there.

    Args:
        scores: higher means more likely incorrect.
        labels: true for incorrect.

    Returns:
        As scikit-learn's `average_precision_score`; None if there is only one class.
    """
    if labels.all() or not labels.any():
        return None
    _, level, n_at_level = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(level, weights=labels)
    precision = hits.cumsum() / n_at_level.cumsum()
    return float(precision @ hits / labels.sum())


def brier(probabilities: Scores, labels: Labels) -> float | None:
    """Mean squared difference between probability and label (1 for incorrect); None without sentences."""
    return float(np.mean((probabilities - labels) ** 2)) if len(labels) else None


def ece(probabilities: Scores, labels: Labels, *, n_bins: int = 15) -> float | None:
    """Expected calibration error over bins that hold equally many sentences; equal probabilities share a bin.

    Args:
        probabilities: of being incorrect.
        labels: true for incorrect.
        n_bins: 15, as Guo et al. 2017 (arXiv 1706.04599), whose bins are equally wide.

    Returns:
        The mean over sentences of |mean probability - share of incorrect| in their bin; None without sentences.
    """
    if not len(labels):
        return None
    n_below = _mean_ranks(probabilities) - 0.5
    bins = (n_below * n_bins / len(labels)).astype(np.int64)
    return float(np.abs(np.bincount(bins, weights=probabilities - labels)).sum() / len(labels))


def _mean_ranks(scores: Scores) -> Scores:
    """Rank the scores from 1 up; equal ones get the mean of their ranks."""
    _, level, n_at_level = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: ndarray = (n_at_level.cumsum() - (n_at_level - 1) / 2)[level]
    return ranks
