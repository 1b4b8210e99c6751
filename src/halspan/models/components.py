"""The components of a backbone: which one a parameter belongs to, and which parameters are for 4 bits."""

import re
from typing import Any

from torch import nn

from halspan.models.families import Family

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
"""In the order in which they are shown."""

_ROUTER = r".*\.(router|gate)\.weight"  # small, and what it decides is discrete
_PACKED = re.compile(r"parametrizations\.(\w+)\.original")


def plain_path(name: str) -> str:
    """Give the path that a parameter or module of a backbone had before it was adapted or quantised."""
    path = name.removeprefix("base_model.model.").replace(".base_layer", "")
    return _PACKED.sub(r"\1", path)


def component_of(path: str, family: Family) -> str:
    """Name the component that a path tells; that something is embeddings or vocabulary head, the model has to say."""
    if ".lora_" in path:
        return "adapters"
    patterns = {"projector": family.projector, "vision tower": family.vision, "experts": family.experts}
    found = (part for part, pattern in patterns.items() if pattern is not None and re.fullmatch(pattern, path))
    return next(found, "language tower")


def quantisable(model: Any, family: Family, *, experts: bool = True) -> set[str]:
    """Give the paths of the parameters that are for 4 bits: matrices of the language tower, and routed experts.

    Routers, norms, embeddings, the vocabulary head, the vision tower and the projector stay as they are stored.

    Args:
        model: the backbone, adapted or not.
        family: where its parts are.
        experts: whether routed experts count, which are no linear layers.
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
