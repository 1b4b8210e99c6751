"""What is tuned on the validation part alone: the temperature of sentence scores and the decoding of spans."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from halspan.core.captions import PredictedSpan, Prediction, SentenceScore
from halspan.core.decoding import DecodingParameters, decode
from halspan.inference.scoring import CaptionScores
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
_LARGEST_INVERSE = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What turns a detector's scores into predictions.

    Attributes:
        temperature: sentence logits are divided by it.
        decoding: how token probabilities become spans.
    """

    temperature: float
    decoding: DecodingParameters

    def to_record(self) -> dict[str, Any]:
        """Give the JSON object that `from_record` reads."""
        return {"temperature": self.temperature, "decoding": asdict(self.decoding)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Tuned":
        """Read what `to_record` gave."""
        return cls(temperature=record["temperature"], decoding=DecodingParameters(**record["decoding"]))


def tune(scores: Sequence[CaptionScores], taxonomy: Sequence[str]) -> Tuned:
    """Fit the temperature to the labels of sentences, and choose the decoding with the highest character F1.

    Args:
        scores: of the validation part.
        taxonomy: the detector's types.
    """
    pairs = [
        (logit, sentence.label == "incorrect")
        for item in scores
        for sentence, logit in zip(item.caption.sentences, item.sentence_logit, strict=True)
        if logit is not None and sentence.label in ("correct", "incorrect")
    ]
    logits, incorrect = (np.array(column) for column in zip(*pairs, strict=True)) if pairs else (np.zeros(0),) * 2
    temperature = fit_temperature(logits, incorrect.astype(bool))
    return Tuned(temperature=temperature, decoding=tune_decoding(scores, taxonomy))


def fit_temperature(logits: Float[ndarray, "sentence"], incorrect: Bool[ndarray, "sentence"]) -> float:
    """Find the temperature T that makes sigmoid(logit / T) most likely (Guo et al. 2017, arXiv 1706.04599).

    The mean negative log-likelihood is convex in 1 / T; its slope is bisected.

    Args:
        logits: of P(incorrect).
        incorrect: the labels.

    Returns:
        The temperature, 0.05 or more; 1 where there is only one class, which says nothing about it.
    """
    if len(set(incorrect.tolist())) < 2:
        logger.warning("the validation part has one class only: the temperature stays 1")
        return 1.0
    low, high = 0.0, _LARGEST_INVERSE
    for _ in range(50):
        inverse = (low + high) / 2
        p_incorrect = 1 / (1 + np.exp(-np.clip(inverse * logits, -50, 50)))
        slope = float(np.mean((p_incorrect - incorrect) * logits))
        low, high = (inverse, high) if slope < 0 else (low, inverse)
    return 1 / max(high, 1 / 1000)


def predict(scores: Iterable[CaptionScores], tuned: Tuned, taxonomy: Sequence[str]) -> Iterator[Prediction]:
    """Decide: calibrated probabilities of sentences, and spans."""
    for item in scores:
        sentences = tuple(
            SentenceScore(None, reason) if logit is None else SentenceScore(_sigmoid(logit / tuned.temperature))
            for logit, reason in zip(item.sentence_logit, item.unscored, strict=True)
        )
        yield Prediction(item.caption, sentences, decode_scores(item, tuned.decoding, taxonomy))


def decode_scores(
    scores: CaptionScores, parameters: DecodingParameters, taxonomy: Sequence[str]
) -> tuple[PredictedSpan, ...]:
    """Mark the spans of one caption, inside its scored sentences."""
    pairs = zip(scores.caption.sentences, scores.sentence_logit, strict=True)
    return decode(
        text=scores.caption.text,
        offsets=scores.offsets,
        p_token=scores.p_token,
        p_type=scores.p_type,
        taxonomy=taxonomy,
        sentences=[sentence for sentence, logit in pairs if logit is not None],
        parameters=parameters,
    )


def tune_decoding(scores: Sequence[CaptionScores], taxonomy: Sequence[str]) -> DecodingParameters:
    """Choose each decoding parameter in turn by the character F1, with the best values of those before it.

    Args:
        scores: of the validation part; every n-th counts, so that they are at most `MAX_TUNING_CAPTIONS`.
        taxonomy: the detector's types.

    Returns:
        The best found; `UNTUNED` where no caption has spans to find.
    """
    sample = scores[:: max(1, math.ceil(len(scores) / MAX_TUNING_CAPTIONS))]
    best, best_f1 = UNTUNED, 0.0
    for name, values in GRID.items():
        for parameters in [replace(best, **{name: value}) for value in values]:
            pairs = ((item.caption, decode_scores(item, parameters, taxonomy)) for item in sample)
            if (f1 := count_characters(pairs).f1) is None:
                logger.warning("the validation part has no spans: the decoding stays untuned")
                return UNTUNED
            if f1 > best_f1:
                best, best_f1 = parameters, f1
    logger.info("decoding: %s, character F1 %.3f on validation", best, best_f1)
    return best


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > 0 else math.exp(logit) / (1 + math.exp(logit))
