"""Metrics that add up over batches and processes: torchmetrics shells around the pure functions.

`compute` returns NaN where a figure is undefined, because a tensor cannot be None.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from halspan.core.captions import Prediction
from halspan.metrics.sentence import auroc, macro
from halspan.metrics.span import Counts, count_characters, count_tokens


class SentenceAuroc(Metric):
    """AUROC of incorrect sentences, averaged over the generators that have both classes.

    Args:
        generators: Names of the generators; each sentence refers to one by index.

    >>> auroc_of = SentenceAuroc(["llava"])
    >>> auroc_of.update(torch.tensor([2.0, -1.0]), torch.tensor([True, False]), torch.tensor([0, 0]))
    >>> float(auroc_of.compute())
    1.0
    """

    full_state_update = False
    higher_is_better = True
    score: list[Tensor]
    incorrect: list[Tensor]
    generator_index: list[Tensor]

    def __init__(self, generators: Sequence[str]) -> None:
        super().__init__()
        self.generators = tuple(generators)
        for name in ("score", "incorrect", "generator_index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @override
    def update(
        self,
        score: Float[Tensor, "sentence"],
        incorrect: Bool[Tensor, "sentence"],
        generator_index: Int[Tensor, "sentence"],
    ) -> None:
        """Add sentences that are labeled correct or incorrect."""
        # all as floats, because a process without sentences contributes an empty tensor of floats
        self.score.append(score.detach().to(self.dtype))
        self.incorrect.append(incorrect.to(self.dtype))
        self.generator_index.append(generator_index.to(self.dtype))

    @override
    def compute(self) -> Float[Tensor, ""]:
        if not len(self.score):
            return _figure(None, self.device)
        score = dim_zero_cat(self.score).double().cpu().numpy()
        incorrect = dim_zero_cat(self.incorrect).bool().cpu().numpy()
        index = dim_zero_cat(self.generator_index).cpu().numpy()
        if index.max(initial=0) >= len(self.generators):
            raise ValueError(f"generator_index: {index.max():.0f} for {len(self.generators)} generators; count from 0")
        own = [index == number for number in range(len(self.generators))]
        return _figure(macro(auroc(score[mask], incorrect[mask]) for mask in own), self.device)


class _CountsF1(Metric):
    """F1 of counts that add up over batches and processes."""

    full_state_update = False
    higher_is_better = True
    shared: Tensor
    predicted: Tensor
    gold: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("shared", "predicted", "gold"):
            self.add_state(name, default=torch.tensor(0), dist_reduce_fx="sum")

    @override
    def compute(self) -> Float[Tensor, ""]:
        return _figure(Counts(int(self.shared), int(self.predicted), int(self.gold)).f1, self.device)

    def _add(self, counts: Counts) -> None:
        self.shared += counts.shared
        self.predicted += counts.predicted
        self.gold += counts.gold


class TokenF1(_CountsF1):
    """F1 of hallucinated tokens; not comparable across tokenizers.

    >>> f1, known = TokenF1(), torch.tensor([True, True, True])
    >>> f1.update(torch.tensor([True, True, False]), torch.tensor([True, False, False]), known)
    >>> round(float(f1.compute()), 2)
    0.67
    """

    @override
    def update(
        self, gold: Bool[Tensor, "*batch"], predicted: Bool[Tensor, "*batch"], known: Bool[Tensor, "*batch"]
    ) -> None:
        """Add tokens; those whose annotation is not known do not count."""
        tokens = [each.detach().flatten().cpu().numpy() for each in (gold, predicted, known)]
        self._add(count_tokens(gold=tokens[0], predicted=tokens[1], known=tokens[2]))


class SpanF1(_CountsF1):
    """F1 of hallucinated characters."""

    @override
    def update(self, predictions: Sequence[Prediction]) -> None:
        """Add captions."""
        self._add(count_characters((prediction.caption, prediction.spans) for prediction in predictions))


def _figure(value: float | None, device: torch.device) -> Float[Tensor, ""]:
    return torch.tensor(float("nan") if value is None else value, device=device)
