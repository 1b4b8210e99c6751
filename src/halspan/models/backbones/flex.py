"""`model.attention=flex`: attention of the text decoder that leaves out blocks of pairs that do not see each other.

Layers get halspan's block masks (`halspan.models.inputs.context.block_masks`) and run torch's flex_attention. On a GPU
it is compiled, once for all lengths. On a CPU it is not, because torch 2.13 writes C++ that does not compile for masks
of several lengths (`cur_kvSplitSize0` was not declared); there, flex is for comparing states. The vision tower keeps
sdpa, and so do layers with other masks, such as those of cross-attention.
"""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from halspan.core.errors import ModelError
from halspan.models.private.attention import attention_of, can_replace_attention, set_attention
from halspan.models.private.torch import limit_variants

FLEX = "halspan_flex"
"""Name of the implementation in transformers' configurations."""

# 16 is the least size of a product of matrices in a GPU's kernel
_LEAST_HEAD = 16
# Variants: one row or several, one block or several, with gradients or not, two dtypes. Lengths are no variants.
_MOST_VARIANTS = 64


def implementation_of(attention: str) -> str:
    """Return the implementation of transformers that a backbone with `model.attention` is built with."""
    return "sdpa" if attention == "flex" else attention


def use_flex(decoder: Any) -> None:
    """Let a text decoder run flex attention on block masks.

    Only the decoder is told, and after its construction, since transformers would refuse some families as a whole.

    Args:
        decoder: Text decoder of transformers.

    Raises:
        ModelError: Its attention does something that flex attention cannot do.
    """
    if obstacle := _obstacle(decoder):
        raise ModelError(
            f"model.attention: flex does not suit this backbone: {type(decoder).__name__} {obstacle}; set "
            "model.attention to sdpa or eager"
        )
    # with these, transformers imports all of its quantizers, which loading a model does anyway
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(FLEX, flex_forward)
    AttentionMaskInterface.register(FLEX, sdpa_mask)
    set_attention(decoder.config, FLEX)


def uses_flex(config: Any) -> bool:
    """Return whether a text decoder's configuration asks for block masks."""
    return attention_of(config) == FLEX


def _obstacle(decoder: Any) -> str:
    """Return what hinders a decoder from running flex attention; empty if nothing does."""
    config = decoder.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if not can_replace_attention(decoder):
        return "has an attention of its own, which transformers cannot replace"
    if head < _LEAST_HEAD:
        return f"has heads of {head} numbers, and at least {_LEAST_HEAD} are needed"
    if getattr(config, "attention_dropout", None):
        return f"drops attention in training (attention_dropout {config.attention_dropout})"
    if getattr(config, "attn_logit_softcapping", None):
        return f"caps its scores (attn_logit_softcapping {config.attn_logit_softcapping})"
    return ""


def flex_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as a function of transformers' attention interface.

    Args:
        module: Attention layer.
        query: Queries, `row head position size`.
        key: Keys, with a divisor of the queries' heads.
        value: Values, of the keys' shape.
        attention_mask: Block mask; with any other mask, sdpa attends.
        scaling: Factor of the scores; None for one over the root of the size.
        **options: Other options of the interface; those that change scores are refused.

    Returns:
        What is read, `row position head size`, and no weights.

    Raises:
        ModelError: The model asks for something that flex attention is not given here, such as sinks.
    """
    if not isinstance(attention_mask, BlockMask):
        read, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
        return read, None
    if asked := [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]:
        raise ModelError(f"model.attention: flex has no {asked[0]}, which {type(module).__name__} uses; set it to sdpa")
    if torch.is_autocast_enabled(query.device.type):  # which knows sdpa, and does not know flex
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if torch.compiler.is_compiling():  # a layer as a whole (trainer.compile), and attention with it
        read = flex_attention(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True)
        return read.transpose(1, 2).contiguous(), None
    attend = _attend_as_is if query.device.type == "cpu" else _attend_compiled
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


def _attend_as_is(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile", UserWarning)
        return _attend(flex_attention, query, key, value, mask, scaling)


def _attend_compiled(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None) -> Tensor:
    """Attend by compiled code.

    Beyond a number of variants torch raises `FailOnRecompileLimitHit`, because the whole graph is asked for; otherwise
    it would go on without compiled code in silence.
    """
    with limit_variants(_MOST_VARIANTS):
        return _attend(compile_attention(), query, key, value, mask, scaling)


def _attend(
    attention: Any, query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None
) -> Tensor:
    read: Tensor = attention(query, key, value, block_mask=mask, scale=scaling, enable_gqa=True)
    return read


@cache
def compile_attention(backend: Any = "inductor") -> Any:
    """Return flex attention compiled for all lengths, by a backend of `torch.compile`."""
    return torch.compile(flex_attention, dynamic=True, fullgraph=True, backend=backend)
