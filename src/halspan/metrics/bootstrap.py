"""Confidence intervals by a percentile bootstrap over images, and paired differences of two detectors."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from halspan.core.captions import Caption, Prediction, SentenceScore
from halspan.core.errors import DataError
from halspan.metrics.resampling import Values, draw_images, number_images, resampled_figures

logger = logging.getLogger(__name__)

LOWER_IS_BETTER = frozenset({"sentence.brier"})
MAX_UNDEFINED = 0.05
_NEEDS_THRESHOLD = "sentence.f1"


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two detectors in one figure; None where it is undefined.

    Attributes:
        a: Figure of the first detector.
        b: Figure of the second detector.
        difference: The value a - b.
        low: Lower end of the interval of the difference.
        high: Upper end of the interval.
        p_a_better: Share of resamples in which the first detector is better: higher, or lower for `LOWER_IS_BETTER`. A
            tie counts half.
        reason: Why there is no interval; None where there is one.
    """

    a: float | None
    b: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    p_a_better: float | None = None
    reason: str | None = None


def intervals(
    predictions: Sequence[Prediction],
    *,
    images: Sequence[str],
    threshold: float = 0.5,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Compute percentile intervals of the main figures.

    Args:
        predictions: Predictions of all captions of a part, in any order.
        images: Key of the image of each caption, such as a hash of its content.
        threshold: Lowest p_incorrect at which a sentence counts as called incorrect.
        n_resamples: Draws of all images.
        seed: Seed of the draws.
        level: Share of resamples inside an interval.

    Returns:
        Low and high end by the figure's dotted path (`sentence.auroc.macro`); and by path, the reason why an interval
        is
        missing: there is only one image, or the figure is undefined in more than `MAX_UNDEFINED` of the resamples. If
        it is undefined in fewer, these resamples are left out. `sentence.auroc.macro` is undefined where a generator
        that it averages has one class only.
    """
    image = number_images(predictions, images)
    draws = draw_images(image, n_resamples=n_resamples, seed=seed)
    found: dict[str, tuple[float, float]] = {}
    reasons: dict[str, str] = {}
    for path, values in resampled_figures(predictions, image, draws, threshold=threshold).items():
        if reason := _why_undefined(values, n_images=draws.shape[1]):
            reasons[path] = reason
        else:
            found[path] = _percentiles(values, level)
    return found, reasons


def compare(
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    *,
    images: Sequence[str],
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Compare two detectors on the same captions and resamples, by the figures that need no threshold.

    Sentences that only one of them scored are left out for both, with a warning.

    Args:
        a: Predictions of the first detector.
        b: Predictions of the second detector about the same captions, in the same order.
        images: Key of the image of each caption, such as a hash of its content.
        n_resamples: Draws of all images.
        seed: Seed of the draws.
        level: Share of resamples inside an interval.

    Returns:
        The differences by the figure's dotted path.

    Raises:
        DataError: The captions are not the same, or differ in text or annotation.
    """
    a, b = _scored_by_both(a, b)
    image = number_images(a, images)
    draws = draw_images(image, n_resamples=n_resamples, seed=seed)
    with_all = np.concatenate([np.ones_like(draws[:1]), draws])
    figures = [resampled_figures(each, image, with_all) for each in (a, b)]
    return {
        path: _difference(figures[0][path], figures[1][path], path=path, level=level, n_images=draws.shape[1])
        for path in figures[0]
        if path != _NEEDS_THRESHOLD
    }


def _why_undefined(values: Values, *, n_images: int) -> str | None:
    """Return the reason why resamples give no interval; None if they give one."""
    if n_images < 2:
        return "fewer than two images, so there is nothing to resample"
    share = float(np.mean(np.isnan(values)))
    return f"undefined in {share:.0%} of the resamples" if share > MAX_UNDEFINED else None


def _percentiles(values: Values, level: float) -> tuple[float, float]:
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _difference(a: Values, b: Values, *, path: str, level: float, n_images: int) -> Difference:
    """Compare two arrays of figures; the first entry is that of all captions, the others are of resamples."""
    differences = (a - b)[1:]
    figures = Difference(_known(a[0]), _known(b[0]), _known(a[0] - b[0]))
    if reason := _why_undefined(differences, n_images=n_images):
        return replace(figures, reason=reason)
    low, high = _percentiles(differences, level)
    better = np.sign(-differences if path in LOWER_IS_BETTER else differences)
    return replace(figures, low=low, high=high, p_a_better=float(np.nanmean((better + 1) / 2)))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _scored_by_both(
    a: Sequence[Prediction], b: Sequence[Prediction]
) -> tuple[Sequence[Prediction], Sequence[Prediction]]:
    """Check that both detectors judge the same captions; sentences scored by one only become unscored."""
    if len(a) != len(b):
        raise DataError(f"{len(a)} captions against {len(b)}; compare predictions about the same captions")
    n_left_out = 0
    pairs = []
    for one, other in zip(a, b, strict=True):
        _check_same(one.caption, other.caption)
        unscored = [
            (x.p_incorrect is None) != (y.p_incorrect is None)
            for x, y in zip(one.sentences, other.sentences, strict=True)
        ]
        n_left_out += sum(unscored)
        pairs.append((_without(one, unscored), _without(other, unscored)) if any(unscored) else (one, other))
    if n_left_out:
        logger.warning("left out %d sentences that only one of the two detectors scored", n_left_out)
    return [one for one, _ in pairs], [other for _, other in pairs]


def _without(prediction: Prediction, unscored: Sequence[bool]) -> Prediction:
    none = SentenceScore(None, "scored by one of the two detectors only")
    scores = zip(prediction.sentences, unscored, strict=True)
    return replace(prediction, sentences=tuple(none if left_out else score for score, left_out in scores))


def _check_same(one: Caption, other: Caption) -> None:
    """Require the same caption with the same annotation; the path of its image may differ."""
    if one.id != other.id:
        raise DataError(f"caption {one.id!r} against {other.id!r}; give the same captions in the same order")
    for name in ("generator", "text", "sentences", "spans"):
        if getattr(one, name) != getattr(other, name):
            raise DataError(f"caption {one.id!r}: {name} differs between the two; compare on the same annotation")
