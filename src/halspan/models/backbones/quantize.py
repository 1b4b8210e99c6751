"""NF4: the language tower in 4 bits, routed experts included, quantized while a checkpoint loads.

In NF4 (Dettmers et al. 2023, arXiv 2305.14314), 64 consecutive weights share a scale, and 256 scales share another one.
Linear layers become bitsandbytes' own. Parameters that hold all experts of a layer, which bitsandbytes skips, are
stored packed and dequantized on use.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit, quantize_blockwise
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize
from transformers import BitsAndBytesConfig
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantizer
from typing_extensions import override

from halspan.core.errors import ModelError
from halspan.models.backbones.components import BLOCK, SCALES, quantizable
from halspan.models.backbones.families import family_of
from halspan.models.passes import PARAMETRIZING, replace_forward
from halspan.models.private.bitsandbytes import empty_linear, move_state, new_state, quantized_parameter
from halspan.models.private.torch import (
    MovedModule,
    cached_weights,
    forget_cached_weights,
    saves_tensors_in_its_own_way,
)
from halspan.models.private.transformers import LoadingQuantizer
from halspan.models.sharding.marks import BLOCK_SCALES, is_sharded, stand_in

_CHUNK = 2**20  # weights quantized at once; each takes about 20 bytes of working memory
_METHOD = "halspan_nf4"


class Nf4Config(BitsAndBytesConfig):  # type: ignore[misc]  # transformers is untyped
    """The value of `quantization_config` for `from_pretrained`.

    Args:
        dtype: Type in which products are computed.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        self.quant_method = _METHOD


@register_quantizer(_METHOD)
class Nf4Quantizer(LoadingQuantizer):
    """Quantizer that replaces layers before a checkpoint is read, and quantizes each weight on arrival."""

    def __init__(self, quantization_config: Nf4Config, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._names: frozenset[str] = frozenset()
        self._packed: dict[str, Any] = {}

    @override
    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        return param_name in self._names

    @override
    def get_quantize_ops(self) -> "_Quantize":
        return _Quantize(self._packed)

    @override
    def before_loading(self, model: Any) -> None:
        config = self.quantization_config
        self._names = frozenset(quantizable(model, family_of(model.config.model_type)))
        _check_widths(model, self._names)
        for name in self._names:
            path = name.removesuffix(".weight")
            if path != name:
                model.set_submodule(path, empty_linear(model.get_submodule(path), config.bnb_4bit_compute_dtype))

    @override
    def after_loading(self, model: Any) -> None:
        for path, state in self._packed.items():
            owner, _, name = path.rpartition(".")
            _parametrize(model.get_submodule(owner), name, state)
        self._packed.clear()


class Dequantize(MovedModule):
    """Parametrization that unpacks quantized weights, which have no gradient.

    Args:
        state: bitsandbytes' `QuantState` of the weights.
    """

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state
        self.register_parameter(BLOCK_SCALES, None)  # where weights are in shards, their scales are, too

    @torch.no_grad()
    def forward(self, packed: Tensor) -> Tensor:
        """Dequantize to the type that the weights had; between its passes, a weight in shards has only a shape."""
        if is_sharded(packed):
            return stand_in(self.state.shape, self.state.dtype, packed.device)
        lend_scales(self, self.state)
        weight: Tensor = dequantize_4bit(packed, self.state)
        return weight

    @override
    def move_more(self, move: Callable[[Tensor], Tensor]) -> None:
        """Move the scales with the weights."""
        move_state(self.state, move)


def lend_scales(owner: Any, state: Any) -> None:
    """Let a `QuantState` have the scales that a module holds in shards, now that they are whole."""
    if (scales := getattr(owner, BLOCK_SCALES, None)) is not None:
        state.absmax = scales


def quantize(weight: Tensor) -> tuple[Tensor, Any]:
    """Quantize a tensor of any shape as `bitsandbytes.functional.quantize_4bit` does, in little memory.

    Args:
        weight: Floating-point tensor on any device.

    Returns:
        The packed weights, two per byte, and the `QuantState` that restores shape and type.
    """
    flat = weight.reshape(-1)
    packed = torch.empty((flat.numel() + 1) // 2, 1, dtype=torch.uint8, device=flat.device)
    scales = torch.empty(-(flat.numel() // -BLOCK), dtype=torch.float32, device=flat.device)
    for start in range(0, flat.numel(), _CHUNK):
        bits, state = quantize_4bit(flat[start : start + _CHUNK], blocksize=BLOCK, quant_type="nf4")
        packed[start // 2 :][: len(bits)] = bits
        scales[start // BLOCK :][: len(state.absmax)] = state.absmax
    mean = scales.mean()
    coarse, fine = quantize_blockwise(scales - mean, blocksize=SCALES)
    return packed, new_state(weight, scales=coarse, mean=mean, of_scales=fine, block=BLOCK)


class _Quantize(ConversionOps):  # type: ignore[misc]  # transformers is untyped
    """Conversion of a weight that was just read."""

    def __init__(self, packed: dict[str, Any]) -> None:
        self._packed = packed

    @override
    def convert(self, input_dict: dict[str, Any], *, model: Any, **kwargs: Any) -> dict[str, nn.Parameter]:
        converted = {}
        for name, value in input_dict.items():
            bits, state = quantize(value[0] if isinstance(value, list) else value)
            module = model.get_submodule(name.rpartition(".")[0])
            if isinstance(module, nn.Linear):
                converted[name] = quantized_parameter(bits, state, module, block=BLOCK)
            else:
                self._packed[name] = state
                converted[name] = nn.Parameter(bits, requires_grad=False)
        return converted


def _check_widths(model: nn.Module, names: frozenset[str]) -> None:
    narrow = sorted(name for name in names if model.get_parameter(name).shape[-1] < BLOCK)
    if narrow:
        raise ModelError(
            f"model.quantize: nf4 needs rows of at least {BLOCK} weights, its block; {len(narrow)} matrices have less, "
            f"such as {narrow[0]} of {tuple(model.get_parameter(narrow[0]).shape)}; set model.quantize=null"
        )


def _parametrize(module: nn.Module, name: str, state: Any) -> None:
    if not parametrize.is_parametrized(module):
        replace_forward(module, _run_packed)
    parametrize.register_parametrization(module, name, Dequantize(state), unsafe=True)


def _run_packed(module: Any, *inputs: Any, **named: Any) -> Any:
    """Keep dequantized weights only during one pass of their module, and none for the backward pass.

    The backward pass computes a weight again from the packed bits, with the adapters that were on it.
    """
    with ExitStack() as stack:
        stack.enter_context(PARAMETRIZING)
        # peft reads a weight before it adds the adapter; that value must not be used as the adapted one
        forget_cached_weights()
        stack.enter_context(parametrize.cached())
        # Under gradient checkpointing, which has hooks of its own, tensors saved here live for one layer only.
        if not saves_tensors_in_its_own_way():
            stack.enter_context(saved_tensors_hooks(partial(_pack, module), _unpack))
        return type(module).forward(module, *inputs, **named)


class _Recipe:
    """The way to make a saved view of a dequantized weight again."""

    def __init__(self, steps: Any, like: Tensor) -> None:
        self._packed = steps.original
        self._steps = tuple(steps)
        self._view = (like.size(), like.stride(), like.storage_offset())

    def follow(self) -> Tensor:
        weight: Tensor = self._packed
        with torch.no_grad():
            for step in self._steps:
                weight = step(weight)
        return weight.as_strided(*self._view)


def _pack(module: Any, tensor: Tensor) -> Any:
    # weights of this module alone; for a copy, torch stores them under the id of the original
    for name, weight in cached_weights():
        if weight.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
            return _Recipe(module.parametrizations[name], tensor)
    return tensor


def _unpack(saved: Any) -> Tensor:
    return saved.follow() if isinstance(saved, _Recipe) else saved
