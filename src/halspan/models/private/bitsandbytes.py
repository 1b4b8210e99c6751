"""Undocumented parts of bitsandbytes, as they are in 0.48 to 0.50: its 4-bit layers, weights and their state."""

from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.functional import QuantState, get_4bit_type
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import Tensor, nn


def new_state(weight: Tensor, *, scales: Tensor, mean: Tensor, of_scales: Any, block: int) -> Any:
    """Return the `QuantState` of a weight in NF4 with double quantization.

    Args:
        weight: The weight, for shape and type.
        scales: Scales of its blocks, quantized themselves.
        mean: Mean of the scales, which was subtracted from them.
        of_scales: `QuantState` of the scales.
        block: Number of weights that share a scale.
    """
    return QuantState(
        absmax=scales,
        shape=weight.shape,
        code=get_4bit_type("nf4", device=weight.device),
        blocksize=block,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=mean,
        state2=of_scales,
    )


def move_state(state: Any, move: Callable[[Tensor], Tensor]) -> None:
    """Move the scales of a weight to the device to which a function moves tensors; they keep their type."""
    state.to(move(state.offset).device)


def empty_linear(layer: nn.Linear, dtype: torch.dtype) -> Any:
    """Return a 4-bit layer of the same size, without weights, that computes products in a type."""
    empty = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    if layer.bias is not None:
        empty.bias = layer.bias
    # On some CPUs bitsandbytes repacks the weights in evaluation for a kernel that rounds to bfloat16 and has no
    # backward. Training after a validation would lose its gradients, with only a warning.
    empty.support_avx512bf16_for_cpu = False
    return empty.requires_grad_(False)


def quantized_parameter(packed: Tensor, state: Any, layer: Any, *, block: int) -> nn.Parameter:
    """Return packed weights as the parameter of a 4-bit layer, which gets their state too."""
    layer.quant_state = state
    weight: nn.Parameter = Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        blocksize=block,
        compress_statistics=True,
        quant_type="nf4",
        module=layer,
        bnb_quantized=True,
    )
    return weight


def marks_of(state: Any) -> dict[str, Any]:
    """Return the attributes that bitsandbytes and PEFT look for on the weight of a 4-bit layer."""
    return {"quant_state": state, "compress_statistics": True, "quant_type": state.quant_type}
