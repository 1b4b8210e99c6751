"""The weight of each loss term; separate from the losses, so that checking a configuration needs no torch."""

from pydantic import ConfigDict, NonNegativeFloat, PositiveFloat
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class LossWeights:
    """Weights of the loss terms, each a mean in nats; 0 leaves a term out.

    Attributes:
        sentence: Cross-entropy of a sentence being incorrect, per sentence.
        token: Cross-entropy of a token being hallucinated, per token.
        type: Cross-entropy of a hallucinated token's type, per token whose type is known.
        weak: Cross-entropy of the strongest token, per incorrect sentence without spans.
        weak_type: Cross-entropy of that token having one of the sentence's types, per such sentence with types.
        sentence_positive: Weight of an incorrect sentence, relative to a correct one.
        token_positive: Weight of a hallucinated token, relative to another one.
    """

    sentence: NonNegativeFloat = 1.0
    token: NonNegativeFloat = 4.0
    type: NonNegativeFloat = 1.0
    weak: NonNegativeFloat = 0.5
    weak_type: NonNegativeFloat = 0.25
    sentence_positive: PositiveFloat = 1.0
    token_positive: PositiveFloat = 1.0
