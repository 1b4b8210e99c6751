"""The attention masks that keep captions of one image apart: which tokens of a row see which.

Axes: `row`, `position` (a token's place in its row).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

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
    """Build the additive mask of each kind of layer.

    A token of the prompt sees the prompt before it. A token of a caption sees the prompt, the tokens before it in its
    own caption, and all of its block. No token sees padding, but padding sees other tokens, because a softmax needs at
    least one entry.

    The mask is additive, not boolean, because eager attention adds any mask to the scores: a boolean mask would be
    wrong there without an error.

    Args:
        kinds: Result of `layer_kinds`.
        segments: Number of each token's caption within its row, from 0; or PROMPT, or PADDING (which follows all other
            tokens).
        blocks: Block of each token; tokens of one block in a row see each other both ways, and NO_BLOCK is causal.
        order: Place of each token as if its caption were the only one after the prompt. Distances are counted in it, so
            what a caption sees does not depend on the other captions in its row.
        dtype: Type of the attention scores that the masks are added to.

    Returns:
        For each kind, 0 where the query (third axis) sees the key (fourth axis), the lowest number elsewhere.
    """
    row, position = (torch.arange(n, device=segments.device) for n in segments.shape)
    pairs = (row[:, None, None], None, position[None, :, None], position[None, None, :])
    masks: dict[str, Tensor] = {}
    for kind, reach in kinds.items():
        seen = _rule(segments, blocks, order, _reach_of(kind, reach, order))(*pairs)
        mask = torch.zeros(seen.shape, dtype=dtype, device=segments.device)
        masks[kind] = mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
    return masks


def block_masks(
    kinds: Mapping[str, int | None],
    segments: Int[Tensor, "row position"],
    blocks: Int[Tensor, "row position"],
    order: Int[Tensor, "row position"],
) -> dict[str, BlockMask]:
    """Build the masks of `layer_masks` for attention that leaves out blocks of pairs that do not see each other.

    A boolean mask of all pairs exists while a block mask is made, and not after it.

    Args:
        kinds: Result of `layer_kinds`.
        segments: See `layer_masks`.
        blocks: See `layer_masks`.
        order: See `layer_masks`.
    """
    n_rows, n = segments.shape
    # Compiled attention keeps these tensors for its backward pass, and cannot keep those of torch's inference mode.
    with torch.inference_mode(False), torch.no_grad():
        segments, blocks, order = segments.clone(), blocks.clone(), order.clone()
        rules = {kind: _rule(segments, blocks, order, _reach_of(kind, reach, order)) for kind, reach in kinds.items()}
        device = segments.device
        return {kind: create_block_mask(rule, n_rows, None, n, n, device=device) for kind, rule in rules.items()}


def _rule(
    segments: Int[Tensor, "row position"],
    blocks: Int[Tensor, "row position"],
    order: Int[Tensor, "row position"],
    reach: tuple[Int[Tensor, "row position"], Int[Tensor, "row position"]],
) -> Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]:
    """Return the function of row, head, query and key that says whether the query sees the key.

    It is one lambda for all kinds of layers, so that torch compiles it once.
    """
    first, last = reach
    return lambda row, _head, query, key: (
        (
            ((key <= query) & ((segments[row, key] == segments[row, query]) | (segments[row, key] == PROMPT)))
            | ((blocks[row, key] == blocks[row, query]) & (blocks[row, key] != NO_BLOCK))
        )
        & (first[row, query] <= order[row, key])
        & (order[row, key] <= last[row, query])
    )


def _reach_of(
    kind: str, reach: int | None, order: Int[Tensor, "row position"]
) -> tuple[Int[Tensor, "row position"], Int[Tensor, "row position"]]:
    """Return the first and the last place, in `order`, that each token sees."""
    if reach is not None and kind == "chunked_attention":
        first = order // reach * reach
        return first, first + reach - 1
    last = torch.full_like(order, torch.iinfo(order.dtype).max)
    return torch.zeros_like(order) if reach is None else order - reach + 1, last
