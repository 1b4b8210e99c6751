"""Private names of PEFT, as they are in 0.21."""

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import _LoraParameterProxy
from torch import Tensor, nn
from typing_extensions import override


class RemovableAdapter(_LoraParameterProxy):  # type: ignore[misc]  # peft is untyped
    """An adapter on quantized weights that peft can take off again after the forward pass.

    peft 0.21 adds adapters as one class, but looks for another class to remove them. On weights with a parametrization
    of their own, adapters would therefore pile up.
    """

    def __init__(self, adapter: nn.Module) -> None:
        nn.Module.__init__(self)
        self._adapter = adapter

    @override
    def forward(self, weight: Tensor) -> Tensor:
        adapted: Tensor = self._adapter(weight)
        return adapted


def is_removable(step: nn.Module) -> bool:
    """Return whether peft takes a parametrization off again after the forward pass."""
    return isinstance(step, _LoraParameterProxy)


def cast_inputs_with(layer: Any, cast: Callable[[Tensor | None, torch.dtype], Tensor | None]) -> None:
    """Let an adapted layer cast the inputs of its adapters with a function of its own."""
    layer._cast_input_dtype = cast
