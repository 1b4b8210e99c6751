"""The sentences that count in sentence figures: labeled correct or incorrect, and scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from halspan.core.captions import Prediction


@dataclass(frozen=True, slots=True)
class JudgedSentences:
    """The sentences that are labeled correct or incorrect, and scored.

    Attributes:
        p_incorrect: The detector's P(incorrect).
        rank: Key for ranking: the log-odds if all sentences have them, else `p_incorrect`.
        incorrect: Whether the label is incorrect.
        generator: Generator of the sentence's caption.
        caption: Index of its prediction.
        position: Position in the caption, counted from 0; sentences that are not judged count, too.
    """

    p_incorrect: Float[ndarray, "sentence"]
    rank: Float[ndarray, "sentence"]
    incorrect: Bool[ndarray, "sentence"]
    generator: ndarray
    caption: Int[ndarray, "sentence"]
    position: Int[ndarray, "sentence"]


def judged_sentences(predictions: Sequence[Prediction]) -> JudgedSentences:
    """Collect the sentences that sentence figures count."""
    rows = [
        (score.p_incorrect, score.logit, sentence.label == "incorrect", prediction.caption.generator, index, position)
        for index, prediction in enumerate(predictions)
        for position, (sentence, score) in enumerate(
            zip(prediction.caption.sentences, prediction.sentences, strict=True)
        )
        if score.p_incorrect is not None and sentence.label in ("correct", "incorrect")
    ]
    p_incorrect, logits, incorrect, generator, caption, position = zip(*rows, strict=True) if rows else ((),) * 6
    return JudgedSentences(
        np.array(p_incorrect, dtype=np.float64),
        np.array(p_incorrect if None in logits else logits, dtype=np.float64),
        np.array(incorrect, dtype=np.bool_),
        np.array(generator, dtype=np.str_),
        np.array(caption, dtype=np.int64),
        np.array(position, dtype=np.int64),
    )
