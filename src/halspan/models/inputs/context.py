"""The attention mask that keeps captions of one image apart: which tokens of a row see which.

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
    """Return how far each kind of layer of a text decoder sees.

    Args:
        config: Configuration of the text decoder.

    Returns:
        The reach of each kind (transformers' `layer_types`), in tokens; None for all.

    Raises:
        ModelError: Some layers see other captions in spite of any mask, such as recurrent ones.
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
        kinds: Result of `layer_kinds`.
        segments: See `attention_mask`.
        blocks: See `attention_mask`.
        order: Place of each token as if its caption were the only one after the prompt. Distances are counted in it, so
            what a caption sees does not depend on the other captions in its row.
        dtype: Type of the attention scores that the masks are added to.
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

    A token of the prompt sees the prompt before it. A token of a caption sees the prompt, the tokens before it in its
    own caption, and all of its block. No token sees padding, but padding sees other tokens, because a softmax needs at
    least one entry.

    The mask is additive, not boolean, because eager attention adds any mask to the scores: a boolean mask would be
    wrong there without an error.

    Args:
        segments: Number of each token's caption within its row, from 0; or PROMPT, or PADDING (which follows all other
            tokens).
        blocks: Block of each token; tokens of one block in a row see each other both ways, and NO_BLOCK is causal.
        dtype: Type of the attention scores that the mask is added to.

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
