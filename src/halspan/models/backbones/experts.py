"""Routed experts whose weights are parameters, not linear layers: what adapters on them need."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from halspan.models.private.peft import RemovableAdapter, is_removable
from halspan.models.private.torch import sort_parameters


def prepare_experts(model: nn.Module, paths: Iterable[str]) -> None:
    """Prepare the modules of routed experts for adapters.

    Args:
        model: Model without adapters; changed in place.
        paths: Paths of the parameters that get adapters.
    """
    for path in paths:
        # peft nests adapters in the order of parameters, but quantized ones by name: make both orders the same
        owner = model.get_submodule(path.rpartition(".")[0])
        sort_parameters(owner)
        if is_parametrized(owner):
            owner.register_forward_pre_hook(_make_removable)


def _make_removable(owner: Any, _inputs: Any) -> None:
    from halspan.models.backbones.quantize import Dequantize  # imported where a parameter is quantized

    for steps in owner.parametrizations.values():
        for place, step in enumerate(steps):
            if not isinstance(step, Dequantize) and not is_removable(step):
                steps[place] = RemovableAdapter(step)
