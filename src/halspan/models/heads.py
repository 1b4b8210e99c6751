"""What turns the backbone's states into judgements: a head for tokens and a head for sentences.

Axes: `token` (caption tokens of a whole batch), `type` (of the taxonomy), `sentence`, `slot` (a token's place in its
sentence), `hidden`.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class TokenHead(nn.Module):
    """Is a token hallucinated, and if so, of which type.

    A language model scores a word by the inner product of a state and the word's embedding in the vocabulary head. The
    head reads that product entry by entry, beside the state: a learned inner product that starts at the vocabulary
    logit, negated, so a word is the more suspicious the less the model expected it. It compares all words in one way,
    where the state alone would have to be taught each confusion (red for blue, left for right) by itself.

    Args:
        hidden: size of a state.
        n_types: types of the taxonomy.
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
        """Give the logit of P(hallucinated), and the logits of the type given that it is.

        Args:
            states: of the tokens.
            expectations: the states that expect them (see `Batch.token_expectation`).
            words: their embeddings in the vocabulary head.
        """
        agreement = self.expectation_norm(expectations) * F.rms_norm(words, words.shape[-1:])
        features = torch.cat([self.norm(states), agreement], dim=1)
        return self.hallucinated(features).squeeze(-1), self.of_type(features)


class SentenceHead(nn.Module):
    """Is a sentence incorrect: attention pooling over its tokens, and the logit of its most suspicious token.

    Args:
        hidden: size of a state.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.attention = nn.Linear(hidden, 1)
        self.incorrect = nn.Linear(hidden + 1, 1)
        with torch.no_grad():
            self.incorrect.weight[:, -1] = 1  # a sentence is as wrong as its worst word, until training knows better

    def forward(
        self,
        states: Float[Tensor, "token hidden"],
        token_logits: Float[Tensor, "token"],
        sentence_tokens: Int[Tensor, "sentence slot"],
    ) -> Float[Tensor, "sentence"]:
        """Give the logit of P(incorrect).

        Args:
            states: of all tokens.
            token_logits: P(hallucinated) of all tokens, as logits.
            sentence_tokens: the tokens of each sentence; -1 fills up. A sentence without tokens gets a logit too,
                one that means nothing.
        """
        absent = sentence_tokens < 0
        states = F.pad(self.norm(states), (0, 0, 0, 1))  # one more, for absent tokens
        token_logits = F.pad(token_logits, (0, 1))
        lowest = torch.finfo(states.dtype).min
        weights = self.attention(states).squeeze(-1)[sentence_tokens].masked_fill(absent, lowest).softmax(dim=1)
        pooled = torch.einsum("st,sth->sh", weights, states[sentence_tokens])
        strongest = token_logits[sentence_tokens].masked_fill(absent, lowest).amax(dim=1)
        strongest = strongest.masked_fill(absent.all(dim=1), 0)
        logits: Tensor = self.incorrect(torch.cat([pooled, strongest[:, None]], dim=1)).squeeze(-1)
        return logits
