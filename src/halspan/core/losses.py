"""The loss of a batch, as sums and counts that passes and processes add up before they divide.

Axes: `token` and `sentence` run over all captions of the batch, `type` over the taxonomy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from halspan.core.loss_weights import LossWeights
from halspan.core.targets import NO_TYPE, CaptionTargets

TERMS = ("sentence", "token", "type", "weak", "weak_type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """The outputs of a detector's heads, before the sigmoid or softmax.

    Attributes:
        token: Logit that the token is hallucinated.
        type: Logits of its type, given that it is hallucinated.
        sentence: Logit that the sentence is incorrect.
    """

    token: Float[Tensor, "token"]
    type: Float[Tensor, "token type"]
    sentence: Float[Tensor, "sentence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Targets of a batch: its captions one after another (see `CaptionTargets`), sentences numbered throughout."""

    token: Float[Tensor, "token"]
    token_mask: Bool[Tensor, "token"]
    token_type: Int[Tensor, "token"]
    token_sentence: Int[Tensor, "token"]
    sentence: Float[Tensor, "sentence"]
    sentence_mask: Bool[Tensor, "sentence"]
    weak: Bool[Tensor, "sentence"]
    weak_types: Float[Tensor, "sentence type"]

    @classmethod
    def join(cls, captions: Sequence[CaptionTargets]) -> "Targets":
        """Join the targets of at least one caption."""
        joined = {
            field.name: torch.from_numpy(np.concatenate([getattr(targets, field.name) for targets in captions]))
            for field in fields(cls)
        }
        n_sentences = [len(targets.sentence) for targets in captions]
        first = np.cumsum([0, *n_sentences[:-1]])
        n_tokens = [len(targets.token) for targets in captions]
        shift = torch.from_numpy(np.repeat(first, n_tokens))
        is_inside = joined["token_sentence"] >= 0
        joined["token_sentence"] += shift * is_inside
        return cls(**joined)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Targets":
        """Copy to a device."""
        moved = {field.name: getattr(self, field.name).to(device, non_blocking=non_blocking) for field in fields(self)}
        return replace(self, **moved)

    def pin_memory(self) -> "Targets":
        """Copy to page-locked memory, from which a copy to a GPU need not block."""
        return replace(self, **{field.name: getattr(self, field.name).pin_memory() for field in fields(self)})


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the loss: the sum over its `count` sentences or tokens, in nats."""

    total: Float[Tensor, ""]
    count: Int[Tensor, ""]


def count_terms(targets: Targets) -> dict[str, Int[Tensor, ""]]:
    """Count the sentences or tokens in each term of the loss; this needs no forward pass."""
    return {
        "sentence": targets.sentence_mask.sum(),
        "token": targets.token_mask.sum(),
        "type": (targets.token_type != NO_TYPE).sum(),
        "weak": targets.weak.sum(),
        "weak_type": _has_weak_types(targets).sum(),
    }


def loss_terms(logits: Logits, targets: Targets, weights: LossWeights) -> dict[str, Term]:
    """Sum each term of the loss in float32; a term without items is 0, and so is its gradient.

    Args:
        logits: Logits of the tokens and sentences that the targets describe.
        targets: Targets of the logits.
        weights: Loss weights; only the `_positive` ones are used here, and `combine` uses the others.
    """
    token, types, sentence = logits.token.float(), logits.type.float(), logits.sentence.float()
    is_named = targets.token_type != NO_TYPE
    strongest = _strongest_token(token.detach(), targets.token_sentence, len(sentence))
    weak_named = _has_weak_types(targets)
    totals = {
        "sentence": _cross_entropy(sentence, targets.sentence, targets.sentence_mask, weights.sentence_positive),
        "token": _cross_entropy(token, targets.token, targets.token_mask, weights.token_positive),
        "type": F.cross_entropy(types[is_named], targets.token_type[is_named], reduction="sum"),
        "weak": F.softplus(-token[strongest[targets.weak]]).sum(),
        "weak_type": _any_of_cross_entropy(types[strongest[weak_named]], targets.weak_types[weak_named]),
    }
    counts = count_terms(targets)
    return {name: Term(totals[name], counts[name]) for name in TERMS}


def combine(
    terms: Mapping[str, Term], weights: LossWeights, counts: Mapping[str, Int[Tensor, ""]] | None = None
) -> Float[Tensor, ""]:
    """Return the weighted sum of the terms' means.

    Args:
        terms: Terms of this pass.
        weights: Weight of each term.
        counts: Divisors of the sums: the counts of the whole global batch if this pass is a part of it (the losses of
            all passes then add up to the batch's loss); None for the counts of this pass.
    """
    counts = {name: term.count for name, term in terms.items()} if counts is None else counts
    means = [getattr(weights, name) * term.total / counts[name].clamp(min=1) for name, term in terms.items()]
    return torch.stack(means).sum()


def _cross_entropy(
    logit: Float[Tensor, "item"], target: Float[Tensor, "item"], mask: Bool[Tensor, "item"], positive: float
) -> Float[Tensor, ""]:
    weight = torch.tensor(positive, device=logit.device)
    return F.binary_cross_entropy_with_logits(logit[mask], target[mask], pos_weight=weight, reduction="sum")


def _any_of_cross_entropy(logit: Float[Tensor, "item type"], listed: Float[Tensor, "item type"]) -> Float[Tensor, ""]:
    """Sum -log P(one of the listed types); each item lists at least one type."""
    log_p = F.log_softmax(logit, dim=-1).masked_fill(listed == 0, -torch.inf)
    return -log_p.logsumexp(dim=-1).sum()


def _has_weak_types(targets: Targets) -> Bool[Tensor, "sentence"]:
    return targets.weak & targets.weak_types.any(dim=-1)


def _strongest_token(
    token: Float[Tensor, "token"], token_sentence: Int[Tensor, "token"], n_sentences: int
) -> Int[Tensor, "sentence"]:
    """Return the first token with the highest logit in each sentence; the number of tokens for an empty one."""
    token = token.nan_to_num()  # a diverged model must give a NaN loss, not an index error
    zone = torch.where(token_sentence < 0, n_sentences, token_sentence)  # an extra zone, for other tokens
    highest = token.new_full((n_sentences + 1,), -torch.inf).scatter_reduce(0, zone, token, "amax")
    position = torch.where(token == highest[zone], torch.arange(len(token), device=token.device), len(token))
    first = position.new_full((n_sentences + 1,), len(token)).scatter_reduce(0, zone, position, "amin")
    return first[:-1]
