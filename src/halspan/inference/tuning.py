"""Fitting on the validation part alone: temperatures, sentence threshold, and span decoding."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from pydantic import ValidationError

from halspan.core.captions import PredictedSpan, Prediction, SentenceScore
from halspan.core.decoding import DecodingParameters, decode
from halspan.core.targets import token_labels
from halspan.inference.scores import CaptionScores
from halspan.metrics.sentence import best_f1_threshold
from halspan.metrics.span import count_characters

logger = logging.getLogger(__name__)

UNTUNED = DecodingParameters(threshold=0.5, merge_gap=1, min_characters=1, snap_to_word=True)
# Tuned one after another, each with the best values of those before it.
GRID: dict[str, tuple[Any, ...]] = {
    "threshold": tuple(step / 20 for step in range(1, 20)),
    "snap_to_word": (True, False),
    "merge_gap": (0, 1, 3, 8),
    "min_characters": (1, 2, 3, 5),
}
MAX_TUNING_CAPTIONS = 2000
PRIOR_ITEMS = 10.0  # sentences or tokens; few, compared with the hundreds in a useful validation part
_LARGEST_INVERSE = 20.0
_MOST = 1e9  # of a temperature, far beyond what is fitted; an integer may have any number of digits
_LARGEST_LOGIT = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The settings that turn a detector's scores into predictions.

    Attributes:
        temperature: Divisor of sentence logits.
        token_temperature: Divisor of token logits.
        threshold: Lowest P(incorrect) at which a sentence is called incorrect.
        decoding: Settings of span decoding.
    """

    temperature: float = 1.0
    token_temperature: float = 1.0
    threshold: float = 0.5
    decoding: DecodingParameters = UNTUNED

    def to_record(self) -> dict[str, Any]:
        """Return the JSON object that `from_record` reads."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Tuned":
        """Read the result of `to_record`.

        Raises:
            ValueError: The record is something else.
        """
        try:
            tuned = cls(**record | {"decoding": DecodingParameters(**record["decoding"])})
        except (TypeError, KeyError, ValidationError) as error:
            raise ValueError(" ".join(str(error).split())[:200]) from None
        scales = (tuned.temperature, tuned.token_temperature, tuned.threshold)
        if not all(type(scale) in (float, int) and 0 < scale < _MOST for scale in scales) or tuned.threshold > 1:
            raise ValueError("temperatures and threshold are numbers above 0, and the threshold is at most 1")
        return tuned


def tune(scores: Sequence[CaptionScores], taxonomy: Sequence[str]) -> Tuned:
    """Fit all settings: temperatures to labels, the threshold to sentence F1, decoding to character F1.

    Args:
        scores: Scores of the validation part.
        taxonomy: Types of the detector.
    """
    logits, incorrect = _labeled_sentences(scores)
    temperature = fit_temperature(logits, incorrect, what="sentences")
    token_temperature = fit_temperature(*_labeled_tokens(scores), what="tokens")
    threshold = best_f1_threshold(sigmoid(logits / temperature), incorrect)
    tuned = Tuned(
        temperature=temperature,
        token_temperature=token_temperature,
        threshold=0.5 if threshold is None else threshold,
    )
    return replace(tuned, decoding=tune_decoding(scores, tuned, taxonomy))


def fit_temperature(logits: Float[ndarray, "item"], positive: Bool[ndarray, "item"], *, what: str) -> float:
    """Return the temperature T with the highest likelihood of sigmoid(logit / T) (Guo et al. 2017, arXiv 1706.04599).

    A few items do not determine the temperature: if their ranking is perfect, the most likely one is 0, and every
    probability becomes 0 or 1. As a prior, `PRIOR_ITEMS` further items with the same logits are therefore added, which
    are calibrated at T = 1. The total negative log-likelihood is convex in 1 / T, and its slope is bisected.

    Args:
        logits: Logits of sentences or tokens.
        positive: Their labels.
        what: Name of the items, for the log.

    Returns:
        The temperature, 0.05 to 1000; 1 if there is only one class, which does not determine it.

    >>> overconfident = np.array([8.0, 8.0, 8.0, -8.0] * 50)
    >>> fit_temperature(overconfident, np.array([True, True, False, False] * 50), what="sentences") > 2
    True
    """
    if positive.all() or not positive.any():
        logger.warning("the validation part has one class of %s only: their temperature stays 1", what)
        return 1.0
    weight = PRIOR_ITEMS / len(logits)
    target = (positive + weight * sigmoid(logits)) / (1 + weight)
    low, high = 0.0, _LARGEST_INVERSE
    for _ in range(50):
        inverse = (low + high) / 2
        slope = float(np.mean((sigmoid(inverse * logits) - target) * logits))
        low, high = (inverse, high) if slope < 0 else (low, inverse)
    return 1 / max(high, 1 / 1000)


def predict(scores: Iterable[CaptionScores], tuned: Tuned, taxonomy: Sequence[str]) -> Iterator[Prediction]:
    """Turn scores into decisions: calibrated probabilities of sentences, and spans."""
    for item in scores:
        sentences = tuple(
            SentenceScore(None, reason) if logit is None else _calibrate(logit / tuned.temperature)
            for logit, reason in zip(item.sentence_logit, item.unscored, strict=True)
        )
        yield Prediction(item.caption, sentences, decode_scores(item, tuned, taxonomy), threshold=tuned.threshold)


def _calibrate(logit: float) -> SentenceScore:
    return SentenceScore(float(sigmoid(logit)), logit=float(logit))


def token_probabilities(scores: CaptionScores, tuned: Tuned) -> Float[ndarray, "token"]:
    """Return the calibrated probability that each token is hallucinated."""
    return sigmoid(scores.token_logit / tuned.token_temperature)


def decode_scores(scores: CaptionScores, tuned: Tuned, taxonomy: Sequence[str]) -> tuple[PredictedSpan, ...]:
    """Mark the spans of one caption, inside its scored sentences."""
    pairs = zip(scores.caption.sentences, scores.sentence_logit, strict=True)
    return decode(
        text=scores.caption.text,
        offsets=scores.offsets,
        p_token=token_probabilities(scores, tuned),
        p_type=scores.p_type,
        taxonomy=taxonomy,
        sentences=[sentence for sentence, logit in pairs if logit is not None],
        parameters=tuned.decoding,
    )


def tune_decoding(scores: Sequence[CaptionScores], tuned: Tuned, taxonomy: Sequence[str]) -> DecodingParameters:
    """Choose each decoding parameter in turn by the character F1, with the best values of those before it.

    Args:
        scores: Scores of the validation part; every n-th is used, so that they are at most `MAX_TUNING_CAPTIONS`.
        tuned: Temperatures.
        taxonomy: The detector's types.

    Returns:
        The best parameters found; `UNTUNED` if no caption has annotated spans.
    """
    sample = scores[:: max(1, math.ceil(len(scores) / MAX_TUNING_CAPTIONS))]
    best, best_f1 = UNTUNED, 0.0
    for name, values in GRID.items():
        for parameters in [replace(best, **{name: value}) for value in values]:
            tried = replace(tuned, decoding=parameters)
            pairs = ((item.caption, decode_scores(item, tried, taxonomy)) for item in sample)
            if (f1 := count_characters(pairs).f1) is None:
                logger.warning("the validation part has no spans: the decoding stays untuned")
                return UNTUNED
            if f1 > best_f1:
                best, best_f1 = parameters, f1
    logger.info("decoding: %s, character F1 %.3f on validation", best, best_f1)
    return best


def sigmoid(logits: Float[ndarray, "..."] | float) -> Float[ndarray, "..."]:
    """Turn logits into probabilities.

    >>> sigmoid(np.array([0.0, 2.0])).round(2).tolist()
    [0.5, 0.88]
    """
    with np.errstate(over="ignore"):  # exp overflows to infinity, which gives the right probability, 0
        probabilities: ndarray = 1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64)))
    return probabilities


def logits_of(probabilities: Float[ndarray, "..."] | float) -> Float[ndarray, "..."]:
    """Turn probabilities into logits; those of 0 and 1 are cut at 50 nats.

    >>> logits_of(np.array([0.5, 1.0])).tolist()
    [0.0, 50.0]
    """
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) - np.log1p(-np.asarray(probabilities, dtype=np.float64))
    clipped: ndarray = np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return clipped


def _labeled_sentences(
    scores: Sequence[CaptionScores],
) -> tuple[Float[ndarray, "sentence"], Bool[ndarray, "sentence"]]:
    pairs = [
        (logit, sentence.label == "incorrect")
        for item in scores
        for sentence, logit in zip(item.caption.sentences, item.sentence_logit, strict=True)
        if logit is not None and sentence.label in ("correct", "incorrect")
    ]
    logits, incorrect = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(logits, dtype=np.float64), np.array(incorrect, dtype=np.bool_)


def _labeled_tokens(scores: Sequence[CaptionScores]) -> tuple[Float[ndarray, "token"], Bool[ndarray, "token"]]:
    logits, hallucinated = [np.zeros(0)], [np.zeros(0, dtype=np.bool_)]
    for item in scores:
        is_hallucinated, is_known = token_labels(item.caption, item.offsets)
        logits.append(item.token_logit[is_known].astype(np.float64))
        hallucinated.append(is_hallucinated[is_known])
    return np.concatenate(logits), np.concatenate(hallucinated)
