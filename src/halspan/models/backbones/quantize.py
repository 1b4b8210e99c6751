"""NF4: the language tower in 4 bits, routed experts included, quantized while a checkpoint loads.

In NF4 (Dettmers et al. 2023, arXiv 2305.14314), 64 consecutive weights share a scale, and 256 scales share another one.
Linear layers become bitsandbytes' own. Parameters that hold all experts of a layer, which bitsandbytes skips, are
stored packed and dequantized on use.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize
from transformers import BitsAndBytesConfig
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from typing_extensions import override

from halspan.core.errors import ModelError
from halspan.models.backbones.components import quantizable
from halspan.models.backbones.families import family_of
from halspan.models.passes import PARAMETRIZING, replace_forward

BLOCK = 64  # weights that share a scale
_SCALES = 256  # scales that share another scale
_CHUNK = 2**20  # weights quantized at once; each takes about 20 bytes of working memory
_METHOD = "halspan_nf4"
_PACKED = ".original"  # name of the stored form of a parameter in parametrize


class Nf4Config(BitsAndBytesConfig):  # type: ignore[misc]  # transformers is untyped
    """The value of `quantization_config` for `from_pretrained`.

    Args:
        dtype: Type in which products are computed.

    Raises:
        ModelError: bitsandbytes is missing.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise ModelError(
                f"model.quantize: nf4 needs bitsandbytes, which cannot be imported ({error}); "
                "pip install 'halspan[train]', or set model.quantize=null"
            ) from None
        super().__init__(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        self.quant_method = _METHOD


@register_quantizer(_METHOD)
class Nf4Quantizer(Bnb4BitHfQuantizer):  # type: ignore[misc]  # transformers is untyped
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
    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        config = self.quantization_config
        self._names = frozenset(quantizable(model, family_of(model.config.model_type)))
        _check_widths(model, self._names)
        for name in self._names:
            path = name.removesuffix(".weight")
            if path != name:
                model.set_submodule(path, _empty_linear(model.get_submodule(path), config.bnb_4bit_compute_dtype))

    @override
    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        for path, state in self._packed.items():
            owner, _, name = path.rpartition(".")
            _parametrize(model.get_submodule(owner), name, state)
        self._packed.clear()
        return super()._process_model_after_weight_loading(model, **kwargs)


class Dequantize(nn.Module):
    """Parametrization that unpacks quantized weights, which have no gradient.

    Args:
        state: bitsandbytes' `QuantState` of the weights.
    """

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    @torch.no_grad()
    def forward(self, packed: Tensor) -> Tensor:
        """Dequantize to the type that the weights had."""
        from bitsandbytes.functional import dequantize_4bit

        weight: Tensor = dequantize_4bit(packed, self.state)
        return weight

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.state.to(fn(self.state.offset).device)  # scales follow the weights, and keep their type
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]


def quantize(weight: Tensor) -> tuple[Tensor, Any]:
    """Quantize a tensor of any shape as `bitsandbytes.functional.quantize_4bit` does, in little memory.

    Args:
        weight: Floating-point tensor on any device.

    Returns:
        The packed weights, two per byte, and the `QuantState` that restores shape and type.
    """
    from bitsandbytes import functional

    flat = weight.reshape(-1)
    packed = torch.empty((flat.numel() + 1) // 2, 1, dtype=torch.uint8, device=flat.device)
    scales = torch.empty(-(flat.numel() // -BLOCK), dtype=torch.float32, device=flat.device)
    for start in range(0, flat.numel(), _CHUNK):
        bits, state = functional.quantize_4bit(flat[start : start + _CHUNK], blocksize=BLOCK, quant_type="nf4")
        packed[start // 2 :][: len(bits)] = bits
        scales[start // BLOCK :][: len(state.absmax)] = state.absmax
    offset = scales.mean()
    coarse, fine = functional.quantize_blockwise(scales - offset, blocksize=_SCALES)
    return packed, functional.QuantState(
        absmax=coarse,
        shape=weight.shape,
        code=functional.get_4bit_type("nf4", device=flat.device),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=offset,
        state2=fine,
    )


def state_of(model: nn.Module, name: str) -> Any | None:
    """Return the `QuantState` of a parameter or buffer; None for one that is not quantized."""
    if name.endswith(_PACKED):
        steps: Any = model.get_submodule(name.removesuffix(_PACKED))
        return steps[0].state
    owner, _, leaf = name.rpartition(".")
    return getattr(getattr(model.get_submodule(owner), leaf), "quant_state", None)


def nf4_bytes(n: int) -> int:
    """Return the number of bytes of `n` weights in NF4 with double quantization.

    These are 4 bits per weight, 8 bits for the scale of each block of 64, and 32 bits for each 256 such scales
    (Dettmers et al. 2023, arXiv 2305.14314, section 3). The mean of the scales and the tables of the 4-bit and 8-bit
    values take 32 bits per number, too.
    """
    n_blocks = -(-n // BLOCK)
    return -(-n // 2) + n_blocks + 4 * (-(-n_blocks // _SCALES) + 1 + 2**4 + 2**8)


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
                converted[name] = _wrap(bits, state, module)
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


def _empty_linear(layer: nn.Linear, dtype: torch.dtype) -> Any:
    from bitsandbytes.nn import Linear4bit

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


def _wrap(bits: Tensor, state: Any, layer: nn.Module) -> nn.Parameter:
    from bitsandbytes.nn import Params4bit

    layer.quant_state = state
    weight: nn.Parameter = Params4bit(
        bits,
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCK,
        compress_statistics=True,
        quant_type="nf4",
        module=layer,
        bnb_quantized=True,
    )
    return weight


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
        parametrize._cache.clear()
        stack.enter_context(parametrize.cached())
        # Under gradient checkpointing, which has hooks of its own, tensors saved here live for one layer only.
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is None:
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
    for (_, name), weight in parametrize._cache.items():
        if weight is not None and weight.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
            return _Recipe(module.parametrizations[name], tensor)
    return tensor


def _unpack(saved: Any) -> Tensor:
    return saved.follow() if isinstance(saved, _Recipe) else saved
