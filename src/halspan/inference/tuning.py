"""What is fitted on the validation part alone: temperatures, the threshold of sentences, the decoding of spans."""

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
from halspan.inference.scoring import CaptionScores
from halspan.metrics.sentence import best_f1_threshold
from halspan.metrics.span import count_characters

logger = logging.getLogger(__name__)

UNTUNED = DecodingParameters(threshold=0.5, merge_gap=1, min_characters=1, snap_to_word=True)
# Tried one after another, each with the best values found before it.
GRID: dict[str, tuple[Any, ...]] = {
    "threshold": tuple(step / 20 for step in range(1, 20)),
    "snap_to_word": (True, False),
    "merge_gap": (0, 1, 3, 8),
    "min_characters": (1, 2, 3, 5),
}
MAX_TUNING_CAPTIONS = 2000
PRIOR_ITEMS = 10.0  # sentences or tokens; little beside the hundreds of a validation part that says something
_LARGEST_INVERSE = 20.0
_LARGEST_LOGIT = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What turns a detector's scores into predictions.

    Attributes:
        temperature: logits of sentences are divided by it.
        token_temperature: logits of tokens are divided by it.
        threshold: a sentence is called incorrect from this P(incorrect) on.
        decoding: how token probabilities become spans.
    """

    temperature: float = 1.0
    token_temperature: float = 1.0
    threshold: float = 0.5
    decoding: DecodingParameters = UNTUNED

    def to_record(self) -> dict[str, Any]:
        """Give the JSON object that `from_record` reads."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Tuned":
        """Read what `to_record` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            tuned = cls(**record | {"decoding": DecodingParameters(**record["decoding"])})
        except (TypeError, KeyError, ValidationError) as error:
            raise ValueError(" ".join(str(error).split())[:200]) from None
        scales = (tuned.temperature, tuned.token_temperature, tuned.threshold)
        if not all(type(scale) in (float, int) and 0 < scale < math.inf for scale in scales) or tuned.threshold > 1:
            raise ValueError("temperatures and threshold are numbers above 0, and the threshold is at most 1")
        return tuned


def tune(scores: Sequence[CaptionScores], taxonomy: Sequence[str]) -> Tuned:
    """Fit everything: temperatures to labels, the threshold to F1 of sentences, decoding to F1 of characters.

    Args:
        scores: of the validation part.
        taxonomy: the detector's types.
    """
    logits, incorrect = _labelled_sentences(scores)
    temperature = fit_temperature(logits, incorrect, what="sentences")
    token_temperature = fit_temperature(*_labelled_tokens(scores), what="tokens")
    threshold = best_f1_threshold(sigmoid(logits / temperature), incorrect)
    tuned = Tuned(
        temperature=temperature,
        token_temperature=token_temperature,
        threshold=0.5 if threshold is None else threshold,
    )
    return replace(tuned, decoding=tune_decoding(scores, tuned, taxonomy))


def fit_temperature(logits: Float[ndarray, "item"], positive: Bool[ndarray, "item"], *, what: str) -> float:
    """Find the temperature T that makes sigmoid(logit / T) most likely (Guo et al. 2017, arXiv 1706.04599).

    Few items cannot tell how far their temperature is from 1: where they are ranked without a mistake, the likeliest
    one is 0, which makes every probability 0 or 1. So `PRIOR_ITEMS` further ones count that lie where these do and are
    calibrated at T = 1. The negative log-likelihood of all is convex in 1 / T; its slope is bisected.

    Args:
        logits: of sentences or tokens.
        positive: their labels.
        what: they are, for the log.

    Returns:
        The temperature, 0.05 to 1000; 1 where there is only one class, which says nothing about it.
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
    """Decide: calibrated probabilities of sentences, and spans."""
    for item in scores:
        sentences = tuple(
            SentenceScore(None, reason) if logit is None else _calibrate(logit / tuned.temperature)
            for logit, reason in zip(item.sentence_logit, item.unscored, strict=True)
        )
        yield Prediction(item.caption, sentences, decode_scores(item, tuned, taxonomy), threshold=tuned.threshold)


def _calibrate(logit: float) -> SentenceScore:
    return SentenceScore(float(sigmoid(logit)), logit=float(logit))


def token_probabilities(scores: CaptionScores, tuned: Tuned) -> Float[ndarray, "token"]:
    """Give the calibrated probability of each token to be hallucinated."""
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
        scores: of the validation part; every n-th counts, so that they are at most `MAX_TUNING_CAPTIONS`.
        tuned: temperatures.
        taxonomy: the detector's types.

    Returns:
        The best found; `UNTUNED` where no caption has spans to find.
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
    """Turn logits into probabilities."""
    with np.errstate(over="ignore"):  # exp gives infinity, and that the right probability, 0
        probabilities: ndarray = 1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64)))
    return probabilities


def logits_of(probabilities: Float[ndarray, "..."] | float) -> Float[ndarray, "..."]:
    """Turn probabilities into logits; those of 0 and 1 are cut at 50 nats."""
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) - np.log1p(-np.asarray(probabilities, dtype=np.float64))
    clipped: ndarray = np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return clipped


def _labelled_sentences(
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


def _labelled_tokens(scores: Sequence[CaptionScores]) -> tuple[Float[ndarray, "token"], Bool[ndarray, "token"]]:
    logits, hallucinated = [np.zeros(0)], [np.zeros(0, dtype=np.bool_)]
    for item in scores:
        is_hallucinated, is_known = token_labels(item.caption, item.offsets)
        logits.append(item.token_logit[is_known].astype(np.float64))
        hallucinated.append(is_hallucinated[is_known])
    return np.concatenate(logits), np.concatenate(hallucinated)
