"""Sizes of weights by component and dtype, as they are or as they would be in 4 bits."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from torch import Tensor

from halspan.core.errors import ModelError
from halspan.models.backbones.components import (
    COMPONENTS,
    component_of,
    nf4_bytes,
    plain_path,
    quantizable,
    state_of,
)
from halspan.models.backbones.families import Family
from halspan.models.sharding.marks import holds_scales

NF4 = "nf4"

Quantize = Literal["nothing", "linear layers", "linear layers and experts"]
"""Which weights of the language tower are in 4 bits. A plain bitsandbytes load stops at the linear layers."""

_MOST_UNQUANTIZED = 0.02  # share of the language tower's weights; norms and router are far below


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A parameter, or several of one component and dtype together.

    Attributes:
        component: One of `COMPONENTS`.
        dtype: Name of the type in torch, or `nf4`.
        parameters: Number of values that they represent; buffers count, too.
        bytes: Size in bytes, scales of 4-bit blocks included.
    """

    component: str
    dtype: str
    parameters: int
    bytes: int


def take_inventory(detector: Any, *, quantize: Quantize = "nothing") -> list[Weights]:
    """Sum a detector's weights by component and dtype.

    Args:
        detector: A `SpanDetector`, loaded or without memory.
        quantize: Weights to count as if they were in 4 bits.
    """
    experts = quantize == "linear layers and experts"
    in_4_bit = set() if quantize == "nothing" else quantizable(detector.backbone, detector.family, experts=experts)
    backbone = measure(detector.backbone, detector.family, in_4_bit=in_4_bit).values()
    heads = (_as_it_is(p, "heads") for name, p in detector.named_parameters() if not name.startswith("backbone."))
    return add_up(chain(backbone, heads))


def measure(model: Any, family: Family, *, in_4_bit: Collection[str] = ()) -> dict[str, Weights]:
    """Measure every parameter and buffer of a backbone, by its original path; shared ones count once.

    Args:
        model: Backbone, adapted or not, loaded or without memory.
        family: Family of the backbone.
        in_4_bit: Paths to count as if they were in 4 bits.
    """
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    measured = {}
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if holds_scales(name):
            continue  # counted with the weights whose scales they are
        path = plain_path(name)
        component = component_of(path, family)
        if tensor is embeddings or tensor is head:
            component = "embeddings" if tensor is embeddings else "vocabulary head"
        if component == "adapters":
            measured[name] = _as_it_is(tensor, component)  # by name, as peft nests several on one module with one path
        elif path in in_4_bit:
            n = tensor.numel()
            measured[path] = Weights(component=component, dtype=NF4, parameters=n, bytes=nf4_bytes(n))
        elif (state := state_of(model, name)) is not None:
            measured[path] = _quantized(tensor, state, component)
        else:
            measured[path] = _as_it_is(tensor, component)
    return measured


def add_up(parts: Iterable[Weights]) -> list[Weights]:
    """Sum weights of one component and dtype, in the order of `COMPONENTS`, the largest dtype first."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for part in parts:
        n, size = sums.get((part.component, part.dtype), (0, 0))
        sums[part.component, part.dtype] = n + part.parameters, size + part.bytes
    ordered = sorted(sums.items(), key=lambda item: (COMPONENTS.index(item[0][0]), -item[1][1]))
    return [
        Weights(component=component, dtype=dtype, parameters=n, bytes=size) for (component, dtype), (n, size) in ordered
    ]


def check_quantized(weights: Mapping[str, Weights]) -> None:
    """Require that the language tower, except embeddings, is in 4 bits; norms and router may stay as they are.

    Args:
        weights: Weights of a backbone, by path.

    Raises:
        ModelError: More than 2 % of its weights are not in 4 bits; the message names the largest.
    """
    tower = {path: part for path, part in weights.items() if part.component in ("language tower", "experts")}
    plain = sorted((part.parameters, path) for path, part in tower.items() if part.dtype != NF4)
    share = sum(n for n, _ in plain) / max(1, sum(part.parameters for part in tower.values()))
    if share > _MOST_UNQUANTIZED:
        largest = ", ".join(f"{path} ({n:,} weights)" for n, path in reversed(plain[-3:]))
        raise ModelError(
            f"model.quantize: nf4 left {share:.1%} of the language tower's weights in 16 or 32 bits, more than "
            f"{_MOST_UNQUANTIZED:.0%}; the largest: {largest}; name them in the family's `experts` "
            "(halspan/models/backbones/families.py), or set model.quantize=null"
        )


def gib(n_bytes: int) -> str:
    """Format bytes as GiB, or small numbers as MiB."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def _quantized(packed: Tensor, state: Any, component: str) -> Weights:
    scales = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    size = packed.nbytes + sum(tensor.nbytes for tensor in scales)
    return Weights(component=component, dtype=NF4, parameters=state.shape.numel(), bytes=size)


def _as_it_is(tensor: Tensor, component: str) -> Weights:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Weights(component=component, dtype=dtype, parameters=tensor.numel(), bytes=tensor.nbytes)
