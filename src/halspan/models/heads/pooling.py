"""A sentence head that pools the states of a sentence by attention.

Axes: `token` (caption tokens of a whole batch), `sentence`, `slot` (a token's place in its sentence), `hidden`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class SentenceHead(nn.Module):
    """A head that judges a sentence by attention over its tokens, and by its most suspicious token's logit.

    Args:
        hidden: Size of a state.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.attention = nn.Linear(hidden, 1)
        self.incorrect = nn.Linear(hidden + 1, 1)
        with torch.no_grad():
            self.incorrect.weight[:, -1] = 1  # initially, a sentence is as wrong as its worst word

    def forward(
        self,
        states: Float[Tensor, "token hidden"],
        token_logits: Float[Tensor, "token"],
        sentence_tokens: Int[Tensor, "sentence slot"],
    ) -> Float[Tensor, "sentence"]:
        """Return the logit of P(incorrect).

        Args:
            states: States of all tokens.
            token_logits: Logits of P(hallucinated) of all tokens.
            sentence_tokens: Tokens of each sentence, padded with -1. A sentence without tokens gets a logit, too, but
                it has no meaning.
        """
        absent = sentence_tokens < 0
        states = F.pad(self.norm(states), (0, 0, 0, 1))  # one more row, for absent tokens
        token_logits = F.pad(token_logits, (0, 1))
        lowest = torch.finfo(states.dtype).min
        weights = self.attention(states).squeeze(-1)[sentence_tokens].masked_fill(absent, lowest).softmax(dim=1)
        pooled = torch.einsum("st,sth->sh", weights, states[sentence_tokens])
        strongest = token_logits[sentence_tokens].masked_fill(absent, lowest).amax(dim=1)
        strongest = strongest.masked_fill(absent.all(dim=1), 0)
        logits: Tensor = self.incorrect(torch.cat([pooled, strongest[:, None]], dim=1)).squeeze(-1)
        return logits
