"""Reading a checkpoint in several processes: one of them reads a layer, quantizes it, and sends each its rows."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.functional import quantize_blockwise
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin
from typing_extensions import override

from halspan.core.errors import ModelError
from halspan.models.backbones.components import BLOCK, SCALES
from halspan.models.backbones.depth import layer_number
from halspan.models.backbones.families import family_of, find_decoder, find_layers
from halspan.models.backbones.quantize import Nf4Config, Nf4Quantizer, lend_scales, quantize
from halspan.models.backbones.shards import StoredTensor
from halspan.models.private.bitsandbytes import marks_of, new_state
from halspan.models.private.transformers import LoadingConverter
from halspan.models.sharding import processes
from halspan.models.sharding.comparing import compare
from halspan.models.sharding.layers import Place, Slice, shard_layers
from halspan.models.sharding.marks import BLOCK_SCALES, ReadingFailed, is_sharded, stand_in

_PLAIN, _NF4 = "halspan_shards", "halspan_nf4_shards"


@dataclass(frozen=True, slots=True)
class ReadElsewhere:
    """A stored tensor that another process reads: of the right shape, without values and without memory.

    Attributes:
        stored: The tensor in its file.
        dtype: Type in which it is loaded.
    """

    stored: StoredTensor
    dtype: torch.dtype

    def __getitem__(self, _: object) -> Tensor:
        """Return what stands in for the tensor: not-a-number everywhere, so that a mistake would be noticed."""
        return stand_in(self.stored.shape, self.dtype, torch.device("cpu"), float("nan"))


def divide_reading(tensors: Mapping[str, StoredTensor], dtype: torch.dtype) -> dict[str, Any]:
    """Return the tensors of a checkpoint, those of a decoder layer readable in one of the processes alone.

    Args:
        tensors: Tensors by their names in the checkpoint.
        dtype: Type in which they are loaded.
    """
    here = processes.number()
    return {
        name: stored if _owner_of(name) in (None, here) else ReadElsewhere(stored, dtype)
        for name, stored in tensors.items()
    }


def _owner_of(name: str) -> int | None:
    """Return the process that reads a weight; None for weights that each process reads."""
    layer = layer_number(name)
    return None if layer is None else layer % processes.count()


class ShardsConfig(QuantizationConfigMixin):  # type: ignore[misc]  # transformers is untyped
    """The value of `quantization_config` for `from_pretrained` that reads shards in the stored precision."""

    def __init__(self) -> None:
        self.quant_method = _PLAIN


class Nf4ShardsConfig(Nf4Config):
    """The value of `quantization_config` for `from_pretrained` that reads shards in NF4."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.quant_method = _NF4


@register_quantizer(_PLAIN)
class ShardsReader(LoadingConverter):
    """Reader of shards in the stored precision."""

    @override
    def update_device_map(self, device_map: Any) -> Any:
        return {"": processes.device()}

    @override
    def before_loading(self, model: Any) -> None:
        self.shards = Shards(model)

    @override
    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        return self.shards.concerns(param_name)

    @override
    def get_quantize_ops(self) -> "_Share":
        return _Share(self.shards)

    def finish(self, model: Any) -> None:
        """Put the shards in place and compare a layer of them (see `Shards.finish`)."""
        self.forget(model)
        self.shards.finish(model)


@register_quantizer(_NF4)
class Nf4ShardsReader(Nf4Quantizer):
    """Reader of shards in NF4."""

    @override
    def update_device_map(self, device_map: Any) -> Any:
        return {"": processes.device()}

    @override
    def before_loading(self, model: Any) -> None:
        super().before_loading(model)
        self.shards = Shards(model, quantized=self._names)

    @override
    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        return self.shards.concerns(param_name)

    @override
    def get_quantize_ops(self) -> "_Share":
        return _Share(self.shards, self._packed)

    def finish(self, model: Any) -> None:
        """Put the shards in place and compare a layer of them (see `Shards.finish`)."""
        self.shards.finish(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """A weight of the layer that is compared, in the process that read it.

    Attributes:
        tensor: The weight, packed if it is in 4 bits.
        scales: Its scales; None where it is not in 4 bits.
    """

    tensor: Tensor
    scales: Tensor | None = None


class Shards:
    """What this process gets of the weights of decoder layers while a checkpoint is read.

    Args:
        model: Model without values; changed in place by `finish`.
        quantized: Paths of the weights that are put in 4 bits.
    """

    def __init__(self, model: Any, quantized: frozenset[str] = frozenset()) -> None:
        self._quantized = quantized
        self._decoder = find_decoder(model, family_of(model.config.model_type))
        self._layers = list(find_layers(self._decoder))
        modules = {id(module): path for path, module in model.named_modules()}
        self._compared = _largest(self._layers)
        self._in_compared = f"{modules[id(self._compared)]}."
        names = [f"{modules[id(layer)]}.{name}" for layer in self._layers for name, _ in layer.named_parameters()]
        self._shapes = {name: model.get_parameter(name).shape for name in names}
        self._slices: dict[str, Slice] = {}
        self._scales: dict[str, Slice] = {}
        self._whole: dict[str, _Whole] = {}

    def concerns(self, name: str) -> bool:
        """Return whether a weight is read by one process for all of them."""
        return name in self._shapes or _owner_of(name) is not None

    def share(self, name: str, value: Tensor) -> tuple[nn.Parameter, Any]:
        """Exchange a weight that one process has read, and keep this process's rows.

        Args:
            name: Path of the weight.
            value: The weight; only its shape counts where another process has read it.

        Returns:
            The parameter to put in its place for now, and the `QuantState` of one in 4 bits.

        Raises:
            ModelError: The weight has another shape than the model's, or was read by none of the processes.
        """
        owner = _owner_of(name) or 0
        is_owner = owner == processes.number()
        if is_owner and value.is_floating_point() and value.numel() and value.view(-1)[0].isnan():
            raise ModelError(f"{name}: was read by none of the processes, or its first number is not one")
        if name not in self._shapes:
            return nn.Parameter(processes.broadcast(value.contiguous(), owner=owner), requires_grad=False), None
        if value.shape != self._shapes[name]:
            raise ModelError(
                f"{name}: has shape {tuple(value.shape)} in the checkpoint and {tuple(self._shapes[name])} in the model"
            )
        if name in self._quantized:
            return self._share_quantized(name, value, owner)
        self._keep(name, _Whole(tensor=value), owner)
        self._slices[name] = Slice(rows=_scatter(value, owner), shape=value.shape)
        return self._slices[name].empty(), None

    def _share_quantized(self, name: str, value: Tensor, owner: int) -> tuple[nn.Parameter, Any]:
        packed, state = quantize(value) if owner == processes.number() else _as_if_quantized(value)
        self._keep(name, _Whole(tensor=packed, scales=state.absmax), owner)
        for common in (state.offset, state.state2.absmax):
            processes.broadcast(common, owner=owner)
        scales = state.absmax
        self._scales[name] = Slice(rows=_scatter(scales, owner), shape=scales.shape)
        state.absmax = stand_in(scales.shape, scales.dtype, scales.device)  # for its size; the values are in shards
        self._slices[name] = Slice(rows=_scatter(packed, owner), shape=packed.shape, marks=marks_of(state))
        return self._slices[name].empty(), state

    def _keep(self, name: str, whole: _Whole, owner: int) -> None:
        if owner == processes.number() and name.startswith(self._in_compared):
            self._whole[name] = whole

    def finish(self, model: Any) -> None:
        """Put the shards in place, and compare a layer of them with the whole one.

        Args:
            model: Model whose other weights are in place.

        Raises:
            ModelError: The layer differs, or a weight outside of the layers was read by none of the processes.
        """
        slices: dict[Place, Slice] = {}
        for name, rows in self._slices.items():
            slices[_place_of(model, name)] = rows
        for name, rows in self._scales.items():
            owner = _owner_of_scales(model, name)
            owner.register_parameter(BLOCK_SCALES, rows.empty())
            slices[owner, BLOCK_SCALES] = rows
        whole = self._build_whole() if self._whole else None
        shard_layers(self._decoder, self._layers, slices, processes.mesh())
        _check_read(model)
        self._whole.clear()
        compare(self._decoder, self._compared, whole, number=self._layers.index(self._compared))

    def _build_whole(self) -> nn.Module:
        """Return the compared layer with all of its weights, in the process that has read them."""
        layer = deepcopy(self._compared)
        for name, whole in self._whole.items():
            path = name.removeprefix(self._in_compared)
            owner, leaf = _place_of(layer, path)
            owner.register_parameter(leaf, nn.Parameter(whole.tensor, requires_grad=False))
            if whole.scales is not None:
                scales = nn.Parameter(whole.scales, requires_grad=False)
                _owner_of_scales(layer, path).register_parameter(BLOCK_SCALES, scales)
        return layer


def _largest(layers: Sequence[nn.Module]) -> nn.Module:
    """Return the largest of the layers that are like the first: others may need an image (Mllama's cross-attention)."""
    alike = [layer for layer in layers if type(layer) is type(layers[0])]
    return max(alike, key=lambda layer: sum(parameter.numel() for parameter in layer.parameters()))


def _place_of(model: Any, name: str) -> Place:
    """Return where a weight is; one that is unpacked on use is below the module that it belongs to."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    return (owner.parametrizations[leaf], "original") if is_parametrized(owner, leaf) else (owner, leaf)


def _owner_of_scales(model: Any, name: str) -> Any:
    """Return the module that lends the scales of a weight in 4 bits to its `QuantState`."""
    owner, leaf = _place_of(model, name)
    return owner.get_submodule("0") if leaf == "original" else owner  # the parametrization that unpacks it


def _check_read(model: nn.Module) -> None:
    """Refuse weights that every process took to be read by another one."""
    for name, weight in model.named_parameters():
        if not is_sharded(weight) and weight.is_floating_point() and weight.numel() and weight.view(-1)[0].isnan():
            raise ModelError(f"{name}: was read by none of the processes, or its first number is not one")


def _scatter(whole: Tensor, owner: int) -> Tensor:
    # what stands in for a weight that another process reads has no memory of its own; only its shape counts
    return processes.scatter_rows(whole.contiguous() if owner == processes.number() else whole, owner=owner)


def _as_if_quantized(weight: Tensor) -> tuple[Tensor, Any]:
    """Return what `quantize` makes of a weight of this shape; the values are to be filled in."""
    n_blocks = -(-weight.numel() // BLOCK)
    coarse, fine = quantize_blockwise(torch.zeros(n_blocks, device=weight.device), blocksize=SCALES)
    state = new_state(weight, scales=coarse, mean=torch.zeros((), device=weight.device), of_scales=fine, block=BLOCK)
    return stand_in(((weight.numel() + 1) // 2, 1), torch.uint8, weight.device), state


def _lend(layer: Any, _: Any) -> None:
    lend_scales(layer, layer.quant_state)


class _Share(ConversionOps):  # type: ignore[misc]  # transformers is untyped
    """Conversion of a weight that was just read by one of the processes."""

    def __init__(self, shards: Shards, packed: dict[str, Any] | None = None) -> None:
        self._shards = shards
        self._packed = {} if packed is None else packed

    @override
    def convert(self, input_dict: dict[str, Any], *, model: Any, **kwargs: Any) -> dict[str, nn.Parameter]:
        converted = {}
        for name, value in input_dict.items():
            try:
                converted[name], state = self._shards.share(name, value[0] if isinstance(value, list) else value)
            except Exception as error:
                raise ReadingFailed(error) from error
            if state is None:
                continue
            module = model.get_submodule(name.rpartition(".")[0])
            if isinstance(module, nn.Linear):
                module.quant_state = state
                module.register_forward_pre_hook(_lend)
            else:
                self._packed[name] = state
        return converted
