"""Which tokens of a row see which: the attention mask that keeps captions of one image apart.

Axes: `row`, `position` (a token's place in its row).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

PROMPT = -1
PADDING = -2
NO_BLOCK = -1


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
