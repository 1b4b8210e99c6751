"""How much each term of the loss counts; apart from the losses, so that a configuration is checked without torch."""

from pydantic import ConfigDict, NonNegativeFloat, PositiveFloat
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class LossWeights:
    """Weights of the loss terms, each a mean in nats; 0 leaves a term out.

    Attributes:
        sentence: cross-entropy of a sentence being incorrect, per sentence.
        token: cross-entropy of a token being hallucinated, per token.
        type: cross-entropy of a hallucinated token's type, per token whose type is known.
        weak: cross-entropy of the strongest token, per incorrect sentence without spans.
        weak_type: cross-entropy of that token being of one of the sentence's types, per such sentence with types.
        sentence_positive: how many times an incorrect sentence counts as much as a correct one.
        token_positive: how many times a hallucinated token counts as much as another one.
    """

    sentence: NonNegativeFloat = 1.0
    token: NonNegativeFloat = 4.0
    type: NonNegativeFloat = 1.0
    weak: NonNegativeFloat = 0.5
    weak_type: NonNegativeFloat = 0.25
    sentence_positive: PositiveFloat = 1.0
    token_positive: PositiveFloat = 1.0
