"""Attention of long rows, part by part: nothing is computed for captions that do not see each other.

`sdpa` computes every pair of tokens and then hides those that the mask excludes. In a row of an image and several
captions, most pairs are of two captions, or of the prompt and a caption after it. Here the prompt attends to itself,
and each caption to the prompt and itself. The numbers are those of `sdpa`, but for rounding.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from halspan.models.inputs.context import PADDING, PROMPT

NAME = "halspan_parts"
"""The implementation's name in transformers."""

_MARK = "halspan_parts"
_CALL = 4_096  # pairs of tokens whose computation takes as long as one more call
_TOGETHER = 4  # in training, where every part keeps a copy of the prompt's keys and values


@dataclass(frozen=True, slots=True)
class RowParts:
    """The parts of one row.

    Attributes:
        prompt: Number of its tokens.
        captions: Positions `[start, stop)` of captions that are computed together.
    """

    prompt: int
    captions: tuple[tuple[int, int], ...]


def use_parts(decoder: Any) -> None:
    """Let a text decoder that uses `sdpa` compute rows part by part, where their mask is marked."""
    # with these, transformers imports all of its quantizers, which loading a model does anyway
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    decoder.set_attn_implementation(NAME)


def mark_parts(masks: Iterable[Tensor], segments: Int[Tensor, "row position"]) -> None:
    """Note on the masks of a batch where its parts are, if it pays to compute them apart.

    It pays on a CPU, and where rows are long; on a GPU, one call for the whole row is faster than many.

    Args:
        masks: Mask of each kind of layer.
        segments: Number of each token's caption within its row, from 0; or PROMPT, PADDING.
    """
    if segments.device.type != "cpu":
        return
    share = _TOGETHER if torch.is_grad_enabled() else None
    parts = [_find_parts(row, share) for row in segments.tolist()]
    computed = sum(row.prompt**2 + sum((n - m) * (row.prompt + n - m) for m, n in row.captions) for row in parts)
    calls = sum(1 + len(row.captions) for row in parts)
    if segments.numel() * segments.shape[1] - computed > _CALL * calls:
        for mask in masks:
            setattr(mask, _MARK, parts)  # on the tensor, because checkpointed layers run again after the pass


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attend as transformers' `sdpa`, part by part where the mask is marked.

    Args:
        module: Attention layer.
        query: Queries, `row head position size`.
        key: Keys of the same shape, or with fewer heads.
        value: Values in the shape of the keys.
        attention_mask: Additive mask, `row 1 position position`; None for the model's own.
        settings: Settings of the layer, such as its scale.

    Returns:
        Sums of values, `row position head size`; and no weights.
    """
    parts: list[RowParts] | None = getattr(attention_mask, _MARK, None)
    if parts is None or attention_mask is None or torch.compiler.is_compiling() or key.shape[2] != query.shape[2]:
        whole: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)[0]
        return whole, None
    rows = [
        _attend_row(module, query[n, None], key[n, None], value[n, None], attention_mask[n, None], row, settings)
        for n, row in enumerate(parts)
    ]
    return torch.cat(rows), None


def _attend_row(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    row: RowParts,
    settings: dict[str, Any],
) -> Tensor:
    prompt = slice(0, row.prompt)
    seen = (key[:, :, prompt], value[:, :, prompt], mask[..., prompt, prompt])
    sums = [sdpa_attention_forward(module, query[:, :, prompt], *seen, **settings)[0]]
    for start, stop in row.captions:
        own = slice(start, stop)
        keys, values = (torch.cat([of[:, :, prompt], of[:, :, own]], dim=2) for of in (key, value))
        seen = (keys, values, torch.cat([mask[..., own, prompt], mask[..., own, own]], dim=3))
        sums.append(sdpa_attention_forward(module, query[:, :, own], *seen, **settings)[0])
    n_padding = query.shape[2] - max((stop for _, stop in row.captions), default=row.prompt)
    if n_padding:
        sums.append(sums[0].new_zeros(1, n_padding, *sums[0].shape[2:]))
    return torch.cat(sums, dim=1)


def _find_parts(segments: list[int], share: int | None) -> RowParts:
    """Return the parts of a row, whose captions follow the prompt one after another.

    Args:
        segments: Number of each token's caption; or PROMPT, PADDING.
        share: Captions are put together up to one `share`-th of the prompt's length; None keeps them apart.
    """
    prompt = segments.count(PROMPT)
    least = 0 if share is None else prompt // share
    parts: list[tuple[int, int]] = []
    stop = prompt
    for _, tokens in groupby(number for number in segments if number not in (PROMPT, PADDING)):
        start = parts.pop()[0] if parts and parts[-1][1] - parts[-1][0] < least else stop
        stop += sum(1 for _ in tokens)
        parts.append((start, stop))
    return RowParts(prompt, tuple(parts))
