"""What a detector's weights weigh, by component and dtype, as they are or as they would be in 4 bit."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from torch import Tensor, nn

from halspan.models.detector import SpanDetector
from halspan.models.families import Family

NF4 = "nf4"

_BLOCK = 64  # weights that share one scale
_SCALES = 256  # scales that share one scale of their own

Quantise = Literal["nothing", "linear layers", "linear layers and experts"]
"""Which weights of the language tower are in 4 bit. A plain bitsandbytes load stops at the linear layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The weights of one component in one dtype.

    Attributes:
        component: embeddings, language tower, experts, vision tower, projector, vocabulary head, adapters or heads.
        dtype: as torch names it, or `nf4`.
        parameters: how many numbers; buffers count too.
        bytes: what they take.
    """

    component: str
    dtype: str
    parameters: int
    bytes: int


_ORDER = (
    "embeddings",
    "language tower",
    "experts",
    "vision tower",
    "projector",
    "vocabulary head",
    "adapters",
    "heads",
)


def take_inventory(detector: SpanDetector, family: Family, *, quantise: Quantise = "nothing") -> list[Weights]:
    """Add up a detector's weights by component and dtype.

    Args:
        detector: loaded or without memory.
        family: of its backbone.
        quantise: what to count as if it were in 4 bit.
    """
    in_4_bit = set() if quantise == "nothing" else quantisable(detector, family, experts=quantise != "linear layers")
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for name, component, tensor in components(detector, family):
        is_in_4_bit = name in in_4_bit
        key = component, NF4 if is_in_4_bit else str(tensor.dtype).removeprefix("torch.")
        n, size = sums.get(key, (0, 0))
        bytes_ = nf4_bytes(tensor.numel()) if is_in_4_bit else tensor.numel() * tensor.element_size()
        sums[key] = n + tensor.numel(), size + bytes_
    ordered = sorted(sums.items(), key=lambda item: (_ORDER.index(item[0][0]), -item[1][1]))
    return [
        Weights(component=component, dtype=dtype, parameters=n, bytes=size) for (component, dtype), (n, size) in ordered
    ]


def components(detector: SpanDetector, family: Family) -> Iterator[tuple[str, str, Tensor]]:
    """Give every parameter and buffer once: its name, its component, and the tensor."""
    backbone = detector.backbone
    embeddings, head = backbone.get_input_embeddings().weight, backbone.get_output_embeddings().weight
    for name, tensor in chain(detector.named_parameters(), detector.named_buffers()):
        if tensor is embeddings or tensor is head:
            yield name, "embeddings" if tensor is embeddings else "vocabulary head", tensor
        else:
            yield name, component_of(name, family), tensor


def component_of(name: str, family: Family) -> str:
    """Name the component that a parameter's name tells; for embeddings and vocabulary head see `components`."""
    if not name.startswith("backbone."):
        return "heads"
    if ".lora_" in name:
        return "adapters"
    path = plain_path(name)
    patterns = {"projector": family.projector, "vision tower": family.vision, "experts": family.experts}
    found = (part for part, pattern in patterns.items() if pattern is not None and re.fullmatch(pattern, path))
    return next(found, "language tower")


def plain_path(name: str) -> str:
    """Give a parameter's or module's path in the backbone, as it was before adapters came."""
    path = name.removeprefix("backbone.").removeprefix("base_model.model.")
    return path.replace(".base_layer", "")


def quantisable(detector: SpanDetector, family: Family, *, experts: bool = True) -> set[str]:
    """Name the parameters that 4 bit applies to: matrices of the language tower's linear layers, and routed experts.

    Routers, norms, embeddings, the vocabulary head, the vision tower and the projector stay as they are stored.
    """
    linear = {f"{name}.weight" for name, module in detector.named_modules() if type(module) is nn.Linear}
    return {
        name
        for name, component, _ in components(detector, family)
        if (component == "language tower" and name in linear) or (experts and component == "experts")
    }


def nf4_bytes(n: int) -> int:
    """Give the bytes of `n` weights in NF4 with double quantisation.

    4 bits a weight, 8 bits a block of 64 for its scale, and for 256 such scales one in 32 bits (Dettmers et al. 2023,
    arXiv 2305.14314, section 3); in 32 bits too, the mean of the scales and the tables of what 4 and 8 bits mean.
    """
    n_blocks = -(-n // _BLOCK)
    return -(-n // 2) + n_blocks + 4 * (-(-n_blocks // _SCALES) + 1 + 2**4 + 2**8)
