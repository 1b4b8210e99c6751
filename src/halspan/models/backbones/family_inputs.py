"""Inputs of a row that depend on the family: attention in the prompt, positions, and shared caption inputs.

Axes: `row`, `position` (a token's place in its row), `axis` (time, height, width), `image`, `tile`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from halspan.models.inputs.context import NO_BLOCK, PROMPT

Inputs = Mapping[str, Tensor]
Segments = Int[Tensor, "row position"]
PromptBlocks = Callable[[Inputs, Segments], Int[Tensor, "row position"]]
Complete = Callable[[Any, Inputs, Segments], Inputs]

_PROMPT_BLOCK = -2  # and below, because blocks of captions count from 0


def causal_prompt(_inputs: Inputs, segments: Segments) -> Int[Tensor, "row position"]:
    """Return blocks in which no token of the prompt sees a later one."""
    return torch.full_like(segments, NO_BLOCK)


def prompt_sees_itself(_inputs: Inputs, segments: Segments) -> Int[Tensor, "row position"]:
    """Return blocks in which all tokens of the prompt see each other (PaliGemma's prefix)."""
    return torch.where(segments == PROMPT, _PROMPT_BLOCK, NO_BLOCK)


def images_see_themselves(inputs: Inputs, segments: Segments) -> Int[Tensor, "row position"]:
    """Return blocks in which the tokens of each image see each other (Gemma-3); their `token_type_ids` is 1."""
    is_image = (inputs["token_type_ids"] == 1) & (segments == PROMPT)
    starts = is_image & ~F.pad(is_image, (1, -1))
    return torch.where(is_image, 1 + _PROMPT_BLOCK - starts.cumsum(dim=1), NO_BLOCK)


def as_laid_out(_model: Any, inputs: Inputs, _segments: Segments) -> Inputs:
    """Return the inputs unchanged."""
    return inputs


def grid_positions(model: Any, inputs: Inputs, segments: Segments) -> Inputs:
    """Add positions of image tokens in time, height and width (M-RoPE; Wang et al. 2024, arXiv 2409.12191).

    The prompt has the model's own positions. Captions continue on all three axes after the largest of these.
    """
    prompt = segments == PROMPT
    n_prompt = int(prompt.sum(dim=1).max())
    of_prompt, shift = model.model.get_rope_index(
        inputs["input_ids"][:, :n_prompt],
        mm_token_type_ids=inputs["mm_token_type_ids"][:, :n_prompt],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=prompt[:, :n_prompt],
    )
    n_after = segments.shape[1] - n_prompt
    of_captions = (inputs["position_ids"] + shift.view(-1, 1)).clamp(min=0)
    return {**inputs, "position_ids": torch.where(prompt, F.pad(of_prompt, (0, n_after)), of_captions)}


def captions_see_the_image(_model: Any, inputs: Inputs, segments: Segments) -> Inputs:
    """Make captions see the tiles that the end of their prompt sees, by cross-attention (Mllama)."""
    tiles = inputs["cross_attention_mask"]
    last = (segments == PROMPT).sum(dim=1) - 1
    of_captions = tiles[torch.arange(len(tiles), device=tiles.device), last][:, None]
    of_prompt = F.pad(tiles, (0, 0, 0, 0, 0, segments.shape[1] - tiles.shape[1]))
    is_prompt = (segments == PROMPT)[..., None, None]
    return {**inputs, "cross_attention_mask": torch.where(is_prompt, of_prompt, of_captions)}
