"""Raw scores of captions, before calibration and decisions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, Float32, Int
from numpy import ndarray
from PIL.Image import Image

from halspan.core.captions import Caption

ReadImage = Callable[[Path], Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionScores:
    """The raw scores of one caption.

    Attributes:
        caption: The caption.
        offsets: Characters `[start, end)` of each token in the caption's text.
        token_logit: Logit of P(hallucinated) of each token, not calibrated.
        p_type: Probability of each type of the taxonomy, given that the token is hallucinated.
        sentence_logit: Logit of P(incorrect) of each sentence, not calibrated; None where it is unscored.
        unscored: Reason why a sentence has no logit; None where it has one.
    """

    caption: Caption
    offsets: Int[ndarray, "token 2"]
    token_logit: Float[ndarray, "token"]
    p_type: Float32[ndarray, "token type"]
    sentence_logit: tuple[float | None, ...]
    unscored: tuple[str | None, ...]
