"""The components of a backbone: which parameter belongs to which, and which ones can be stored in 4 bits."""

import re
from typing import Any

from torch import nn

from halspan.models.backbones.families import Family

COMPONENTS = (
    "embeddings",
    "language tower",
    "experts",
    "vision tower",
    "projector",
    "vocabulary head",
    "adapters",
    "heads",
)
"""Components, in the order of tables."""

BLOCK = 64  # weights that share a scale in NF4
SCALES = 256  # scales that share another scale

_ROUTER = r".*\.(router|gate)\.weight"  # stays unquantized: it is small, and its decisions are discrete
_ORIGINAL = ".original"  # name of the stored form of a parameter in parametrize
_PACKED = re.compile(r"parametrizations\.(\w+)\.original")


def plain_path(name: str) -> str:
    """Return the path that a parameter or module of a backbone had before it was adapted or quantized."""
    path = name.removeprefix("base_model.model.").replace(".base_layer", "")
    return _PACKED.sub(r"\1", path)


def plain_model(model: Any) -> Any:
    """Return a backbone without the `peft.PeftModel` around it, if there is one."""
    return model.get_base_model() if is_adapted(model) else model


def is_adapted(model: Any) -> bool:
    """Return whether a backbone is a `peft.PeftModel`; peft, which imports bitsandbytes, is not imported for it."""
    return hasattr(model, "get_base_model")


def component_of(path: str, family: Family) -> str:
    """Return the component of a path, as far as the path shows it; only the model knows embeddings and head."""
    if ".lora_" in path:
        return "adapters"
    patterns = {"projector": family.projector, "vision tower": family.vision, "experts": family.experts}
    found = (part for part, pattern in patterns.items() if pattern is not None and re.fullmatch(pattern, path))
    return next(found, "language tower")


def quantizable(model: Any, family: Family, *, experts: bool = True) -> set[str]:
    """Return the paths of the parameters for 4 bits: matrices of the language tower, and routed experts.

    Routers, norms, embeddings, the vocabulary head, the vision tower and the projector stay in their stored precision.

    Args:
        model: Backbone, adapted or not.
        family: Family of the backbone.
        experts: Whether routed experts, which are not linear layers, are included.
    """
    head = model.get_output_embeddings()
    linear = {
        plain_path(f"{name}.weight")
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head
    }
    found = set()
    for path in {plain_path(name) for name, _ in model.named_parameters()}:
        component = component_of(path, family)
        is_matrix = component == "language tower" and path in linear and not re.fullmatch(_ROUTER, path)
        if is_matrix or (experts and component == "experts"):
            found.add(path)
    return found


def state_of(model: nn.Module, name: str) -> Any | None:
    """Return the `QuantState` of a parameter or buffer; None for one that is not quantized."""
    if name.endswith(_ORIGINAL):
        steps: Any = model.get_submodule(name.removesuffix(_ORIGINAL))
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
    return -(-n // 2) + n_blocks + 4 * (-(-n_blocks // SCALES) + 1 + 2**4 + 2**8)
