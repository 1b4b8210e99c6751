"""A token head that compares each word with the state that expects it.

Axes: `token` (caption tokens of a whole batch), `type` (of the taxonomy), `hidden`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class TokenHead(nn.Module):
    """A head that decides whether a token is hallucinated, and of which type.

    A language model scores a word by the inner product of a state and the word's embedding in the vocabulary head. In
    addition to the state, this head reads the terms of that product. Its weights for them start equal and negative, so
    their sum starts like a negated vocabulary logit: the less the model expected a word, the more suspicious it is. All
    words are compared in the same way. From the state alone, the head would have to learn each confusion (red for blue,
    left for right) separately.

    Args:
        hidden: Size of a state.
        n_types: Number of types in the taxonomy.
    """

    def __init__(self, hidden: int, n_types: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.expectation_norm = nn.LayerNorm(hidden)
        self.hallucinated = nn.Linear(2 * hidden, 1)
        self.of_type = nn.Linear(2 * hidden, n_types)
        with torch.no_grad():
            self.hallucinated.weight[:, hidden:] = -1 / math.sqrt(hidden)
            self.of_type.weight[:, hidden:] = 0

    def forward(
        self,
        states: Float[Tensor, "token hidden"],
        expectations: Float[Tensor, "token hidden"],
        words: Float[Tensor, "token hidden"],
    ) -> tuple[Float[Tensor, "token"], Float[Tensor, "token type"]]:
        """Return the logit of P(hallucinated), and the logits of the type given that the token is hallucinated.

        Args:
            states: States of the tokens.
            expectations: States that predict the tokens (see `Batch.token_expectation`).
            words: Embeddings of the tokens in the vocabulary head.
        """
        agreement = self.expectation_norm(expectations) * F.rms_norm(words, words.shape[-1:])
        features = torch.cat([self.norm(states), agreement], dim=1)
        return self.hallucinated(features).squeeze(-1), self.of_type(features)
