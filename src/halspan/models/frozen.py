"""Frozen towers run without a graph, so training keeps nothing of them in memory."""

import re
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from halspan.models.families import Family


def run_frozen_towers_without_grad(model: nn.Module, family: Family) -> None:
    """Run the vision tower without a graph if nothing in it is trained, and the projector if nothing up to it is.

    Args:
        model: with its adapters, if any, already in it; changed in place.
        family: patterns of components.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    frozen: list[str] = []
    for pattern in (family.vision, family.projector):  # gradients of the tower pass through the projector
        if any(re.fullmatch(pattern, name) for name in trained):
            break
        frozen.append(pattern)
    for module in list(_outermost(model, frozen)):
        module.forward = torch.no_grad()(module.forward)  # type: ignore[method-assign]


def _outermost(module: nn.Module, patterns: Sequence[str], prefix: str = "") -> Iterator[nn.Module]:
    """Find the largest modules all of whose parameters match."""
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        names = [path + parameter for parameter, _ in child.named_parameters()]
        is_container = isinstance(child, nn.ModuleList)  # nobody calls it
        matches = [any(re.fullmatch(pattern, name) for pattern in patterns) for name in names]
        if names and all(matches) and not is_container:
            yield child
        elif any(matches):
            yield from _outermost(child, patterns, path)
