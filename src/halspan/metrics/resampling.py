"""Figures of all bootstrap resamples at once.

A resample draws as many images as there are, with replacement; all captions of an image come together, as their
sentences are alike. Its figures are those of `summarize` on the captions drawn, without looking at them again: figures
that are ratios of sums are sums over images, weighted by how often each was drawn, and AUROC is a weighted one over
sentences that are sorted once.

Axes: `resample`, `image`, `caption`, `sentence`; an `item` is one of the latter two, a `part` what a ratio is made of.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from halspan.core.captions import Prediction
from halspan.metrics.judged import JudgedSentences, judged_sentences
from halspan.metrics.span_counts import SpanCounts, count_spans

Draws = Int[ndarray, "resample image"]
Values = Float[ndarray, "resample"]

_CHUNK = 2**22  # largest number of resamples times sentences at once


def number_images(predictions: Sequence[Prediction], images: Sequence[str]) -> Int[ndarray, "caption"]:
    """Return the number of each caption's image, in the order of image names, whatever the captions' order."""
    if len(images) != len(predictions):
        raise ValueError(f"images: {len(images)} for {len(predictions)} predictions; give the image of each")
    return np.unique(np.array(images, dtype=np.str_), return_inverse=True)[1]


def draw_images(image: Int[ndarray, "caption"], *, n_resamples: int, seed: int) -> Draws:
    """Draw as many images as there are, with replacement; returns the count of each image in each resample."""
    n_images = len(np.unique(image))
    if not n_images:
        return np.zeros((n_resamples, 0), dtype=np.int64)
    return np.random.default_rng(seed).multinomial(n_images, np.full(n_images, 1 / n_images), size=n_resamples)


def resampled_figures(
    predictions: Sequence[Prediction], image: Int[ndarray, "caption"], draws: Draws, *, threshold: float = 0.5
) -> dict[str, Values]:
    """Compute the figures of each resample; NaN where one is undefined.

    Args:
        predictions: Predictions of all captions.
        image: Number of each caption's image.
        draws: Count of each image in each resample.
        threshold: Lowest p_incorrect at which a sentence counts as called incorrect.
    """
    judged = judged_sentences(predictions)
    generators = sorted({prediction.caption.generator for prediction in predictions})
    return {
        **_ranking_figures(judged, generators, image[judged.caption], draws),
        **_probability_figures(judged, image[judged.caption], draws, threshold=threshold),
        **_span_figures([count_spans(prediction) for prediction in predictions], image, draws),
    }


def _ranking_figures(
    judged: JudgedSentences, generators: Sequence[str], image: Int[ndarray, "sentence"], draws: Draws
) -> dict[str, Values]:
    by_generator, averaged = {}, []
    for name in generators:
        own = judged.generator == name
        by_generator[name], _ = _rank(judged.rank[own], judged.incorrect[own], image[own], draws)
        if len(set(judged.incorrect[own].tolist())) == 2:
            averaged.append(by_generator[name])
    pooled, auprc = _rank(judged.rank, judged.incorrect, image, draws)
    return {
        "sentence.auroc.macro": np.mean(averaged, axis=0) if averaged else np.full(len(draws), np.nan),
        "sentence.auroc.pooled": pooled,
        **{f"sentence.auroc.by_generator.{name}": values for name, values in by_generator.items()},
        "sentence.auprc": auprc,
    }


def _rank(
    scores: Float[ndarray, "sentence"], labels: Bool[ndarray, "sentence"], image: Int[ndarray, "sentence"], draws: Draws
) -> tuple[Values, Values]:
    """Compute AUROC and average precision of each resample; NaN where it has one class only.

    Sentences of each class are sorted once. The weight below or above a score in a resample is then a cumulative sum of
    the counts of their images.
    """
    order = np.argsort(scores, kind="stable")
    wrong, right = order[labels[order]], order[~labels[order]]
    below_wrong = np.searchsorted(scores[wrong], scores[wrong], side="left")
    below, up_to = (np.searchsorted(scores[right], scores[wrong], side=side) for side in ("left", "right"))
    figures = np.empty((2, len(draws)))
    step = max(1, _CHUNK // max(len(scores), 1))
    for start in range(0, len(draws), step):
        chunk = draws[start : start + step]
        weight = chunk[:, image[wrong]]
        n_right, n_wrong = _cumulate(chunk[:, image[right]]), _cumulate(weight)
        n_pairs = n_right[:, -1] * n_wrong[:, -1]
        won = (weight * (n_right[:, below] + n_right[:, up_to])).sum(axis=1) / 2
        hits = n_wrong[:, -1:] - n_wrong[:, below_wrong]  # incorrect sentences with at least this score
        misses = n_right[:, -1:] - n_right[:, below]
        precision = hits / np.maximum(hits + misses, 1)
        figures[0, start : start + step] = _divide(won, n_pairs)
        figures[1, start : start + step] = _divide((weight * precision).sum(axis=1), n_wrong[:, -1], where=n_pairs > 0)
    return figures[0], figures[1]


def _probability_figures(
    judged: JudgedSentences, image: Int[ndarray, "sentence"], draws: Draws, *, threshold: float
) -> dict[str, Values]:
    p, incorrect = judged.p_incorrect, judged.incorrect
    called = p >= threshold
    rows = np.stack([(p - incorrect) ** 2, np.ones_like(p), called & incorrect, called, incorrect], axis=1)
    error, n, *counts = _add_up(rows, image, draws)
    return {"sentence.brier": _divide(error, n), "sentence.f1": _rates(*counts)["f1"]}


def _span_figures(captions: Sequence[SpanCounts], image: Int[ndarray, "caption"], draws: Draws) -> dict[str, Values]:
    def rates(criterion: str) -> dict[str, Values]:
        counts = [getattr(each, criterion) for each in captions]
        rows = [(each.shared, each.predicted, each.gold) for each in counts]
        return _rates(*_add_up(np.array(rows, dtype=np.float64).reshape(-1, 3), image, draws))

    rows = [(each.iou, 1.0, float(each.char.gold)) for each in captions]
    iou, n, n_gold = _add_up(np.array(rows, dtype=np.float64).reshape(-1, 3), image, draws)
    return {
        **{f"span.char.{name}": values for name, values in rates("char").items()},
        "span.typed_char_f1": rates("typed")["f1"],
        "span.iou": _divide(iou, n, where=n_gold > 0),
        "span.strict.f1": rates("strict")["f1"],
        "span.partial.f1": rates("partial")["f1"],
    }


def _rates(shared: Values, predicted: Values, gold: Values) -> dict[str, Values]:
    """Return precision, recall and F1 as `summarize` does: without gold spans, all three are undefined."""
    return {
        "precision": _divide(shared, predicted, where=(gold > 0) & (predicted > 0)),
        "recall": _divide(shared, gold),
        "f1": _divide(2 * shared, predicted + gold, where=gold > 0),
    }


def _add_up(
    rows: Float[ndarray, "item part"], image: Int[ndarray, "item"], draws: Draws
) -> Float[ndarray, "part resample"]:
    """Sum the values of each image, weighted by how often it was drawn."""
    by_image = np.zeros((draws.shape[1], rows.shape[1]))
    np.add.at(by_image, image, rows)
    return (draws @ by_image).T


def _cumulate(counts: Int[ndarray, "resample sentence"]) -> Int[ndarray, "resample sentence+1"]:
    """Return cumulative sums from the left, after a leading 0."""
    return np.pad(counts.cumsum(axis=1), ((0, 0), (1, 0)))


def _divide(above: ndarray, below: ndarray, *, where: Bool[ndarray, "resample"] | None = None) -> Values:
    """Divide where the divisor is not 0 and the condition holds; NaN elsewhere."""
    ratio: Values = np.full(len(below), np.nan)
    np.divide(above, below, out=ratio, where=below > 0 if where is None else where)
    return ratio
