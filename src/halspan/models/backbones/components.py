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

_ROUTER = r".*\.(router|gate)\.weight"  # stays unquantized: it is small, and its decisions are discrete
_PACKED = re.compile(r"parametrizations\.(\w+)\.original")


def plain_path(name: str) -> str:
    """Return the path that a parameter or module of a backbone had before it was adapted or quantized."""
    path = name.removeprefix("base_model.model.").replace(".base_layer", "")
    return _PACKED.sub(r"\1", path)


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
