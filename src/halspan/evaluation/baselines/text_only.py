"""Image-blind baselines: predictions from a sentence's generator, position and words alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from halspan.core.captions import Caption, Prediction, SentenceScore
from halspan.core.errors import ConfigError, DataError

_Key = TypeVar("_Key", str, int)

ScoreCaption = Callable[[Caption], Sequence[float]]
"""Function that returns P(incorrect) of each sentence of a caption."""

Fit = Callable[[Iterable[Caption]], ScoreCaption]
"""Function that fits a scorer to captions; raises DataError if labeled sentences of a class are missing."""


def fit_prior(train: Iterable[Caption]) -> ScoreCaption:
    """Score a sentence by the share of incorrect ones among its generator's training sentences.

    A generator that is not in training gets the share of all sentences. Shares are smoothed by one correct and one
    incorrect sentence.
    """
    labeled = _labeled(train)
    overall = _share(labeled)
    shares = _shares(labeled, lambda item: item.generator)
    return lambda caption: [shares.get(caption.generator, overall)] * len(caption.sentences)


def fit_position(train: Iterable[Caption]) -> ScoreCaption:
    """Score a sentence by the share of incorrect ones among training sentences at its position in the caption.

    Positions beyond those seen in training count as the last of them. Shares are smoothed by one correct and one
    incorrect sentence.
    """
    shares = _shares(_labeled(train), lambda item: item.position)
    last = max(shares)
    unseen = _share([])
    return lambda caption: [shares.get(min(place, last), unseen) for place in range(len(caption.sentences))]


def fit_bag_of_words(train: Iterable[Caption]) -> ScoreCaption:
    """Score a sentence by a logistic regression on TF-IDF of its words and pairs of words.

    Raises:
        ConfigError: Scikit-learn is not installed.
        DataError: No training sentence has a word of two letters or more.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise ConfigError(
            "baselines: bow needs scikit-learn, which is not installed; install halspan[eval], or leave bow out"
        ) from None
    labeled = _labeled(train)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    try:
        model.fit([item.text for item in labeled], [item.is_incorrect for item in labeled])
    except ValueError as error:
        raise DataError(f"bag of words: cannot be fitted on {len(labeled)} sentences: {error}") from error

    def score(caption: Caption) -> Sequence[float]:
        texts = [caption.text[sentence.start : sentence.end] for sentence in caption.sentences]
        return [float(p_incorrect) for p_incorrect in model.predict_proba(texts)[:, 1]]

    return score


FITS: Mapping[str, Fit] = {"prior": fit_prior, "position": fit_position, "bow": fit_bag_of_words}
TITLES: Mapping[str, str] = {"prior": "generator prior", "position": "position only", "bow": "bag of words"}


def predict(score: ScoreCaption, captions: Iterable[Caption]) -> list[Prediction]:
    """Score every sentence of captions; no spans are marked."""
    return [Prediction(caption, tuple(map(SentenceScore, score(caption)))) for caption in captions]


def out_of_fold(
    captions: Sequence[Caption], images: Sequence[str], fit: Fit, *, n_folds: int = 5, seed: int = 0
) -> list[Prediction]:
    """Score captions with models that were fitted on the captions of other images.

    Images are shuffled and cut into folds of even size, and each fold is scored by a model of all others. The figures
    mix the scores of several models. The more incorrect sentences a fold has, the fewer of them its model has seen.
    Therefore a score that is constant in a fold, such as the generator's share, comes out below chance.

    Args:
        captions: Captions to score, and to fit on.
        images: Hash of the image of each caption (see `halspan.data.images.content_hash`).
        fit: Function that fits the baseline.
        n_folds: Number of folds, 2 or more.
        seed: Seed of the shuffle.

    Returns:
        A prediction for each caption, in order.

    Raises:
        DataError: There are fewer images than folds, or the captions outside a fold have sentences of one class only.
    """
    distinct = sorted(set(images))
    if not 2 <= n_folds <= len(distinct):
        raise DataError(
            f"{n_folds} folds cannot be made of {len(distinct)} distinct images; take 2 or more folds, and no more "
            "than images"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    fold_of = {distinct[image]: place * n_folds // len(distinct) for place, image in enumerate(order)}
    predicted: dict[int, Prediction] = {}
    for fold in range(n_folds):
        inside = [place for place, image in enumerate(images) if fold_of[image] == fold]
        outside = [caption for caption, image in zip(captions, images, strict=True) if fold_of[image] != fold]
        predicted |= zip(inside, predict(fit(outside), (captions[place] for place in inside)), strict=True)
    return [predicted[place] for place in range(len(captions))]


@dataclass(frozen=True, slots=True)
class _Labeled:
    """A sentence that is labeled correct or incorrect."""

    text: str
    position: int
    generator: str
    is_incorrect: bool


def _labeled(captions: Iterable[Caption]) -> list[_Labeled]:
    """Collect the sentences with labels to learn from.

    Raises:
        DataError: There is no sentence of one of the classes.
    """
    labeled = [
        _Labeled(
            caption.text[sentence.start : sentence.end], position, caption.generator, sentence.label == "incorrect"
        )
        for caption in captions
        for position, sentence in enumerate(caption.sentences)
        if sentence.label in ("correct", "incorrect")
    ]
    n_incorrect = sum(item.is_incorrect for item in labeled)
    if not 0 < n_incorrect < len(labeled):
        raise DataError(
            f"a baseline cannot be fitted on {len(labeled) - n_incorrect} correct and {n_incorrect} incorrect "
            "sentences: it takes both; give captions with both"
        )
    return labeled


def _shares(labeled: Iterable[_Labeled], key: Callable[[_Labeled], _Key]) -> dict[_Key, float]:
    groups: dict[_Key, list[_Labeled]] = {}
    for item in labeled:
        groups.setdefault(key(item), []).append(item)
    return {name: _share(group) for name, group in groups.items()}


def _share(labeled: Sequence[_Labeled]) -> float:
    return (sum(item.is_incorrect for item in labeled) + 1) / (len(labeled) + 2)
