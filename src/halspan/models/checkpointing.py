"""Activation memory of training: frozen towers keep nothing, and layers keep only their inputs."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from halspan.core.errors import ModelError
from halspan.models.backbones.families import Family
from halspan.models.passes import replace_forward


def checkpoint_layers(model: nn.Module) -> None:
    """Recompute each layer in the backward pass instead of storing activations (Chen et al. 2016, 1604.06174).

    Transformers' own switch is not used, because it makes all embeddings require gradients, those of images included.
    The trained weights get the same gradients without it, because this checkpointing is not re-entrant.

    Raises:
        ModelError: The model has no layers that transformers can recompute.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer  # imports much that scoring does without

    from halspan.models.private.transformers import checkpoint_with

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"model.gradient_checkpointing: true, but no layer of {type(model).__name__} can be computed again; "
            "set it to false"
        )
    for layer in layers:
        checkpoint_with(layer, partial(checkpoint, use_reentrant=False))


def run_frozen_towers_without_grad(model: nn.Module, family: Family) -> None:
    """Run the vision tower without a graph if it is not trained, and the projector if nothing up to it is.

    Args:
        model: Model with its adapters, if any; changed in place.
        family: Patterns of components.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    frozen: list[str] = []
    for pattern in (family.vision, family.projector):  # gradients of the tower pass through the projector
        if any(re.fullmatch(pattern, name) for name in trained):
            break
        frozen.append(pattern)
    for module in list(outermost(model, frozen)):
        replace_forward(module, _run_without_grad)


@torch.no_grad()
def _run_without_grad(module: nn.Module, *inputs: Any, **named: Any) -> Any:
    return type(module).forward(module, *inputs, **named)


def outermost(module: nn.Module, patterns: Sequence[str], prefix: str = "") -> Iterator[nn.Module]:
    """Return the largest modules all of whose parameters match one of some patterns of whole paths."""
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        names = [path + parameter for parameter, _ in child.named_parameters()]
        is_container = isinstance(child, nn.ModuleList)  # it is never called itself
        matches = [any(re.fullmatch(pattern, name) for pattern in patterns) for name in names]
        if names and all(matches) and not is_container:
            yield child
        elif any(matches):
            yield from outermost(child, patterns, path)
