"""The heads themselves. Axes: `token`, `type`, `sentence`, `slot` (a token's place in its sentence), `hidden`."""

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """Judge a token by a few mixtures of its state and its word.

    Args:
        hidden: Size of a state.
        n_types: Number of types in the taxonomy.
        width: Number of mixtures.
        dropout: Share of them that is dropped in training.
    """

    def __init__(self, hidden: int, n_types: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.LayerNorm(2 * hidden), nn.Linear(2 * hidden, width), nn.GELU(), nn.Dropout(dropout))
        self.hallucinated = nn.Linear(width, 1)
        self.of_type = nn.Linear(width, n_types)

    def forward(self, states: Tensor, expectations: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logit of P(hallucinated), and the logits of the type given that it is."""
        features = self.mix(torch.cat([states, expectations * words], dim=1))
        return self.hallucinated(features).squeeze(-1), self.of_type(features)


class Strongest(nn.Module):
    """Judge a sentence by its most suspicious token."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, states: Tensor, token_logits: Tensor, sentence_tokens: Tensor) -> Tensor:
        """Return the logit of P(incorrect); 0 for a sentence without tokens, before it is shifted."""
        padded = torch.cat([token_logits, token_logits.new_zeros(1)])  # which -1 selects
        lowest = torch.finfo(padded.dtype).min
        absent = sentence_tokens < 0
        strongest = padded[sentence_tokens].masked_fill(absent, lowest).amax(dim=1)
        return strongest.masked_fill(absent.all(dim=1), 0) * self.scale + self.shift
