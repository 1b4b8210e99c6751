"""Separation of incorrect from correct sentences by probability; the positive class is incorrect.

Scores that are not finite are a DataError in every figure. Axes: `sentence`, `point`, `bin`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from halspan.core.errors import DataError

Scores = Float[ndarray, "sentence"]
Labels = Bool[ndarray, "sentence"]


@dataclass(frozen=True, slots=True)
class RocCurve:
    """True and false positive rates at each distinct score, from the highest down, after the origin.

    Attributes:
        fpr: Share of the correct sentences with at least this score.
        tpr: Share of the incorrect sentences with at least this score.
        threshold: Score; infinite at the origin, where no sentence reaches it.
    """

    fpr: Float[ndarray, "point"]
    tpr: Float[ndarray, "point"]
    threshold: Float[ndarray, "point"]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins of sentences by probability, from the lowest up; none is empty.

    Attributes:
        mean_probability: Mean probability that the detector gives.
        share_incorrect: Share of incorrect sentences by label.
        count: Number of sentences.
    """

    mean_probability: Float[ndarray, "bin"]
    share_incorrect: Float[ndarray, "bin"]
    count: Int[ndarray, "bin"]


def auroc(scores: Scores, labels: Labels) -> float | None:
    """Return the area under the ROC curve, the probability that an incorrect sentence outscores a correct one.

    Args:
        scores: Higher means more likely incorrect.
        labels: True for incorrect.

    Returns:
        Exact value by ranks (Mann-Whitney U), a tie counting half; None if there is only one class.

    >>> auroc(np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, False, True, False]))
    0.75
    """
    _check_finite(scores)
    n_positive = int(labels.sum())
    n_negative = len(labels) - n_positive
    if not n_positive or not n_negative:
        return None
    u = _mean_ranks(scores)[labels].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


def macro(figures: Iterable[float | None]) -> float | None:
    """Return the mean of the figures that are not None, each generator counting the same; None if all are None.

    >>> macro([0.9, 0.7, None])
    0.8
    """
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None


def roc_curve(scores: Scores, labels: Labels) -> RocCurve | None:
    """Return the true and false positive rates at each threshold; None if there is only one class.

    Args:
        scores: Higher means more likely incorrect.
        labels: True for incorrect.

    >>> curve = roc_curve(np.array([0.9, 0.6, 0.2]), np.array([True, False, True]))
    >>> curve.fpr.tolist(), curve.tpr.tolist()
    ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    level, n_at_level, n_hits = _levels(scores, labels)
    if _is_one_class(labels):
        return None
    return RocCurve(
        fpr=_cumulative_share(n_at_level - n_hits),
        tpr=_cumulative_share(n_hits),
        threshold=np.concatenate([[np.inf], level]),
    )


def recall_at_fpr(scores: Scores, labels: Labels, *, fpr: float = 0.10) -> float | None:
    """Return the highest recall of incorrect sentences at a false positive rate of at most `fpr`.

    Args:
        scores: Higher means more likely incorrect.
        labels: True for incorrect.
        fpr: False positive rate allowed, 0 to 1; nothing is interpolated between thresholds.

    Returns:
        0 to 1; None if there is only one class.

    >>> recall_at_fpr(np.array([0.9, 0.6, 0.2]), np.array([True, False, True]), fpr=0.1)
    0.5
    """
    curve = roc_curve(scores, labels)
    return None if curve is None else float(curve.tpr[curve.fpr <= fpr].max())


def average_precision(scores: Scores, labels: Labels) -> float | None:
    """Return the area under the precision-recall curve, in steps at each distinct score.

    Args:
        scores: Higher means more likely incorrect.
        labels: True for incorrect.

    Returns:
        As scikit-learn's `average_precision_score`; None if there is only one class.

    >>> average_precision(np.array([0.9, 0.6, 0.2]), np.array([True, False, False]))
    1.0
    """
    _, n_at_level, n_hits = _levels(scores, labels)
    if _is_one_class(labels):
        return None
    return float((n_hits.cumsum() / n_at_level.cumsum()) @ n_hits / labels.sum())


def brier(probabilities: Scores, labels: Labels) -> float | None:
    """Return the mean squared difference of probability and label (1 for incorrect); None without sentences.

    >>> brier(np.array([0.5, 0.0]), np.array([True, False]))
    0.125
    """
    _check_finite(probabilities)
    return float(np.mean((probabilities - labels) ** 2)) if len(labels) else None


def accuracy(probabilities: Scores, labels: Labels, *, threshold: float) -> float | None:
    """Return the share of correctly called sentences, incorrect at or above the threshold; None without sentences.

    >>> accuracy(np.array([0.9, 0.6]), np.array([True, False]), threshold=0.5)
    0.5
    """
    _check_finite(probabilities)
    return float(np.mean((probabilities >= threshold) == labels)) if len(labels) else None


def f1(probabilities: Scores, labels: Labels, *, threshold: float) -> float | None:
    """Return F1 of the sentences called incorrect, which are those at or above the threshold.

    Returns:
        0 to 1, 0 if none is called incorrect; None if no sentence is incorrect.

    >>> f1(np.array([0.9, 0.6, 0.2]), np.array([True, False, True]), threshold=0.5)
    0.5
    """
    _check_finite(probabilities)
    called = probabilities >= threshold
    n_incorrect = labels.sum()
    return float(2 * (called & labels).sum() / (called.sum() + n_incorrect)) if n_incorrect else None


def best_f1_threshold(probabilities: Scores, labels: Labels) -> float | None:
    """Return the threshold with the highest F1 of incorrect sentences.

    Args:
        probabilities: Probabilities of being incorrect.
        labels: True for incorrect.

    Returns:
        Halfway between two scores, or the lowest score; of equally good ones the nearest to 0.5. None if there is only
        one class.

    >>> best_f1_threshold(np.array([0.9, 0.7, 0.2]), np.array([True, True, False])).__round__(2)
    0.45
    """
    level, n_at_level, n_hits = _levels(probabilities, labels)
    if _is_one_class(labels):
        return None
    figure = 2 * n_hits.cumsum() / (n_at_level.cumsum() + labels.sum())
    next_level = np.append(level[1:], level[-1])
    middle = (level + next_level) / 2
    threshold = np.where(middle > next_level, middle, level)  # for the lowest score, and adjacent floats
    best = threshold[figure == figure.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def reliability(probabilities: Scores, labels: Labels, *, n_bins: int = 15) -> Reliability:
    """Compare probabilities with labels in bins of equally many sentences; equal probabilities share a bin.

    Args:
        probabilities: Probabilities of being incorrect.
        labels: True for incorrect.
        n_bins: Largest number of bins, 15 as in Guo et al. 2017 (arXiv 1706.04599), whose bins have equal widths.

    >>> bins = reliability(np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, False, False, False]), n_bins=2)
    >>> bins.mean_probability.tolist(), bins.share_incorrect.tolist()
    ([0.1, 0.9], [0.0, 0.5])
    """
    _check_finite(probabilities)
    n_below = _mean_ranks(probabilities) - 0.5
    bins = (n_below * n_bins / max(len(labels), 1)).astype(np.int64)
    count = np.bincount(bins, minlength=n_bins)
    kept = count > 0
    mean_probability, share_incorrect = (
        np.bincount(bins, weights=values, minlength=n_bins)[kept] / count[kept] for values in (probabilities, labels)
    )
    return Reliability(mean_probability, share_incorrect, count[kept])


def ece(probabilities: Scores, labels: Labels, *, n_bins: int = 15) -> float | None:
    """Return the expected calibration error: the mean distance of probability and incorrect share over bins.

    Args:
        probabilities: Probabilities of being incorrect.
        labels: True for incorrect.
        n_bins: As for `reliability`.

    Returns:
        0 to 1; None without sentences.

    >>> ece(np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, False, False, False]), n_bins=2)
    0.25
    """
    bins = reliability(probabilities, labels, n_bins=n_bins)
    if not len(labels):
        return None
    return float(bins.count @ np.abs(bins.mean_probability - bins.share_incorrect) / len(labels))


def _check_finite(scores: Scores) -> None:
    """Require finite numbers: comparisons with NaN are false, so it would silently count as some score."""
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise DataError(
            f"scores: {scores[wrong[0]]} at sentence {wrong[0]}, and {len(wrong)} of {len(scores)} are not finite; "
            "repair the detector, or leave these sentences out as unscored, with the reason"
        )


def _is_one_class(labels: Labels) -> bool:
    return bool(labels.all() or not labels.any())


def _levels(scores: Scores, labels: Labels) -> tuple[ndarray, ndarray, ndarray]:
    """Return the distinct scores, from the highest down, their sentences, and the incorrect ones among these."""
    _check_finite(scores)
    level, index, n_at_level = np.unique(-scores, return_inverse=True, return_counts=True)
    return -level, n_at_level, np.bincount(index, weights=labels)


def _cumulative_share(counts: ndarray) -> ndarray:
    """Return the cumulative shares, after a leading 0."""
    return np.concatenate([[0.0], counts.cumsum() / counts.sum()])


def _mean_ranks(scores: Scores) -> Scores:
    """Return the ranks of the scores, from 1 up; equal scores get their mean rank."""
    _, level, n_at_level = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: ndarray = (n_at_level.cumsum() - (n_at_level - 1) / 2)[level]
    return ranks
