"""Which tokens of a row see which: the attention mask that keeps captions of one image apart.

Axes: `row`, `position` (a token's place in its row).
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from halspan.core.errors import ModelError

PROMPT = -1
PADDING = -2
NO_BLOCK = -1

FULL = "full_attention"
_REACH = {FULL: None, "sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


def layer_kinds(config: Any) -> dict[str, int | None]:
    """Say how far the kinds of layers of a text decoder see.

    Args:
        config: of the text decoder.

    Returns:
        For each kind (transformers' `layer_types`), its reach in tokens; None is all.

    Raises:
        ModelError: there are layers that no mask can keep from seeing other captions, such as recurrent ones.
    """
    kinds = sorted(set(getattr(config, "layer_types", None) or [FULL]))
    if unknown := [kind for kind in kinds if kind not in _REACH]:
        raise ModelError(
            f"model.backbone: its text decoder ({config.model_type}) has layers of the kind {unknown[0]!r}, for which "
            f"halspan has no mask that keeps captions of one image apart; kinds that it has: {', '.join(_REACH)}"
        )
    return {kind: getattr(config, _REACH[kind] or "", None) for kind in kinds}


def layer_masks(
    kinds: Mapping[str, int | None],
    segments: Int[Tensor, "row position"],
    blocks: Int[Tensor, "row position"],
    order: Int[Tensor, "row position"],
    *,
    dtype: torch.dtype,
) -> dict[str, Float[Tensor, "row 1 position position"]]:
    """Build the mask of each kind of layer.

    Args:
        kinds: what `layer_kinds` gave.
        segments: see `attention_mask`.
        blocks: see `attention_mask`.
        order: the place of each token if its caption stood behind the prompt alone; distances are counted in it, so
            what a caption sees does not depend on what else is in its row.
        dtype: of the attention scores that the masks are added to.
    """
    whole = attention_mask(segments, blocks, dtype=dtype)
    lowest = torch.finfo(dtype).min
    masks = {}
    for kind, reach in kinds.items():
        masks[kind] = whole
        if reach is not None and reach < segments.shape[1]:
            masks[kind] = whole.masked_fill(~_within(kind, reach, order)[:, None], lowest)
    return masks


def _within(kind: str, reach: int, order: Int[Tensor, "row position"]) -> Bool[Tensor, "row position position"]:
    query, key = order[:, :, None], order[:, None, :]
    if kind == "chunked_attention":
        return query // reach == key // reach
    return query - key < reach


def attention_mask(
    segments: Int[Tensor, "row position"], blocks: Int[Tensor, "row position"], *, dtype: torch.dtype
) -> Float[Tensor, "row 1 position position"]:
    """Build the additive mask of a batch of rows.

    A token of the prompt sees the prompt before it. A token of a caption sees the prompt, what comes before it in its
    own caption, and all of its block. Nothing sees padding, but padding sees something: a softmax needs that.

    Additive and not boolean, because eager attention adds whatever it is given: a boolean mask would be wrong there
    without an error.

    Args:
        segments: number of the caption that a token belongs to within its row, from 0; PROMPT, or PADDING (which
            follows all other tokens).
        blocks: tokens of a row with the same number see each other both ways; NO_BLOCK is causal.
        dtype: of the attention scores that the mask is added to.

    Returns:
        0 where the query (third axis) sees the key (fourth axis), the lowest number of `dtype` elsewhere.
    """
    n = segments.shape[1]
    before = torch.ones(n, n, dtype=torch.bool, device=segments.device).tril()
    key, block = segments[:, None, :], blocks[:, None, :]
    seen = before & ((key == segments[:, :, None]) | (key == PROMPT))
    seen |= (block == blocks[:, :, None]) & (block != NO_BLOCK)
    mask = torch.zeros(seen.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
