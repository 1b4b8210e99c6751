"""Heads that are linear in the normalized state, for comparison with the others.

Axes: `token` (caption tokens of a whole batch), `type` (of the taxonomy), `sentence`, `slot` (a token's place in its
sentence), `hidden`.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class LinearTokenHead(nn.Module):
    """A head that judges a token by its state alone.

    Args:
        hidden: Size of a state.
        n_types: Number of types in the taxonomy.
    """

    def __init__(self, hidden: int, n_types: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.hallucinated = nn.Linear(hidden, 1)
        self.of_type = nn.Linear(hidden, n_types)

    def forward(
        self,
        states: Float[Tensor, "token hidden"],
        _expectations: Float[Tensor, "token hidden"],
        _words: Float[Tensor, "token hidden"],
    ) -> tuple[Float[Tensor, "token"], Float[Tensor, "token type"]]:
        """Return the logit of P(hallucinated), and the logits of the type given that the token is hallucinated."""
        features = self.norm(states)
        return self.hallucinated(features).squeeze(-1), self.of_type(features)


class LinearSentenceHead(nn.Module):
    """A head that judges a sentence by the mean of its tokens' states.

    Args:
        hidden: Size of a state.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.incorrect = nn.Linear(hidden, 1)

    def forward(
        self,
        states: Float[Tensor, "token hidden"],
        _token_logits: Float[Tensor, "token"],
        sentence_tokens: Int[Tensor, "sentence slot"],
    ) -> Float[Tensor, "sentence"]:
        """Return the logit of P(incorrect); that of a sentence without tokens has no meaning."""
        states = F.pad(self.norm(states), (0, 0, 0, 1))  # one more row of zeros, which index -1 selects
        n_tokens = (sentence_tokens >= 0).sum(dim=1, keepdim=True).clamp(min=1)
        logits: Tensor = self.incorrect(states[sentence_tokens].sum(dim=1) / n_tokens).squeeze(-1)
        return logits
