"""What the weights of a loaded backbone take: bytes by component and type, and whether enough of them are in 4 bits."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from halspan.core.errors import ModelError
from halspan.models.families import Family
from halspan.models.quantize import plain_name, state_of

COMPONENTS = ("embeddings", "language tower", "experts", "vision tower", "projector", "vocabulary head")

_MOST_UNQUANTISED = 0.02  # of the language tower's weights; norms and router are far below


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """A parameter, or several of them together.

    Attributes:
        component: one of `COMPONENTS`.
        dtype: such as `bfloat16`; `nf4` where quantised.
        n_weights: how many numbers they stand for.
        n_bytes: what they take, scales of blocks included.
    """

    component: str
    dtype: str
    n_weights: int
    n_bytes: int


def list_weights(model: Any, family: Family) -> dict[str, StoredWeights]:
    """Measure every parameter of a backbone, by the name that it has where it is not quantised; shared ones once.

    Args:
        model: without adapters.
        family: where its parts are.
    """
    return {plain_name(name): _measure(model, family, name, parameter) for name, parameter in model.named_parameters()}


def sum_weights(weights: Sequence[StoredWeights]) -> list[StoredWeights]:
    """Add up what has the same component and type, in the order of `COMPONENTS`."""
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for weight in weights:
        counts[weight.component, weight.dtype] += weight.n_weights
        sizes[weight.component, weight.dtype] += weight.n_bytes
    return [
        StoredWeights(component=component, dtype=dtype, n_weights=counts[component, dtype], n_bytes=size)
        for (component, dtype), size in sorted(sizes.items(), key=lambda item: (COMPONENTS.index(item[0][0]), item[0]))
    ]


def check_quantised(weights: dict[str, StoredWeights]) -> None:
    """Require that the language tower, embeddings aside, is in 4 bits; norms and router may stay as they are.

    Raises:
        ModelError: more than 2 % of its weights are not; names the largest.
    """
    tower = {name: stored for name, stored in weights.items() if stored.component in ("language tower", "experts")}
    plain = sorted((stored.n_weights, name) for name, stored in tower.items() if stored.dtype != "nf4")
    share = sum(count for count, _ in plain) / max(1, sum(stored.n_weights for stored in tower.values()))
    if share > _MOST_UNQUANTISED:
        largest = ", ".join(f"{name} ({count:,} weights)" for count, name in reversed(plain[-3:]))
        raise ModelError(
            f"model.quantize: nf4 left {share:.1%} of the language tower's weights in 16 or 32 bits, more than "
            f"{_MOST_UNQUANTISED:.0%}; the largest: {largest}; name them in the family's `experts` "
            "(halspan/models/families.py), or set model.quantize=null"
        )


def _measure(model: Any, family: Family, name: str, parameter: Tensor) -> StoredWeights:
    component = _component(model, family, name, parameter)
    state = state_of(model, name)
    if state is None:
        dtype = str(parameter.dtype).removeprefix("torch.")
        return StoredWeights(component=component, dtype=dtype, n_weights=parameter.numel(), n_bytes=_size(parameter))
    scales = [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return StoredWeights(
        component=component,
        dtype="nf4",
        n_weights=state.shape.numel(),
        n_bytes=_size(parameter) + sum(map(_size, scales)),
    )


def _component(model: Any, family: Family, name: str, parameter: Tensor) -> str:
    head = model.get_output_embeddings()
    if any(parameter is one for one in model.get_input_embeddings().parameters()):
        return "embeddings"
    if head is not None and any(parameter is one for one in head.parameters()):
        return "vocabulary head"
    if re.fullmatch(family.projector, name):
        return "projector"
    if re.fullmatch(family.vision, name):
        return "vision tower"
    return "experts" if family.experts and re.fullmatch(family.experts, plain_name(name)) else "language tower"


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
