"""The check at the start: a layer in shards against the same layer whole, on one batch."""

from typing import Any

import torch
from torch import Tensor, nn

from halspan.core.errors import ModelError
from halspan.models.sharding import processes

_TOKENS = 16
_SAME_GRADIENT = 0.01  # relative difference; on GPUs, attention adds up gradients in no fixed order


def compare(decoder: Any, layer: nn.Module, whole: nn.Module | None, *, number: int) -> None:
    """Require that a layer in shards gives the states of the whole one bit for bit, and its gradient.

    Args:
        decoder: Text decoder whose layers are in shards.
        layer: One of its layers.
        whole: The same layer with all of its weights, in the process that has read them; None in others.
        number: Number of the layer, from 0.

    Raises:
        ModelError: It differs, in any of the processes.
    """
    inputs, named, states = _run_to(decoder, layer)
    probe = torch.ones_like(states)
    (gradient,) = torch.autograd.grad(states, inputs, probe)
    owner = int(processes.add_up(torch.tensor(0 if whole is None else processes.number(), device=states.device)))
    expected = [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in (states, gradient)]
    if whole is not None:
        inputs = inputs.detach().requires_grad_()
        own = _states_of(whole(inputs, **named))
        for tensor, value in zip(expected, [own.detach(), *torch.autograd.grad(own, inputs, probe)], strict=True):
            tensor.copy_(value)
    for tensor in expected:
        processes.broadcast(tensor, owner=owner)
    differs = not states.equal(expected[0]) or _difference(gradient, expected[1]) > _SAME_GRADIENT
    if int(processes.add_up(torch.tensor(int(differs), device=states.device))):
        raise ModelError(
            f"trainer.strategy: layer {number} of the text decoder in shards differs from the whole layer "
            f"(states by {_difference(states, expected[0]):.2%}, gradient by {_difference(gradient, expected[1]):.2%} "
            "in this process), so its weights do not arrive as they were read; train with trainer.strategy=ddp or "
            "auto, or with another model.dtype or model.quantize"
        )


def _run_to(decoder: Any, layer: nn.Module) -> tuple[Tensor, dict[str, Any], Tensor]:
    """Run a decoder on random states, and return the inputs of one of its layers, and the states it gives."""
    seen: list[tuple[Tensor, dict[str, Any], Tensor]] = []

    def look(_: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
        named = dict(named)
        states = inputs[0] if inputs else named.pop("hidden_states")
        seen.append((states, named, _states_of(output)))

    handle = layer.register_forward_hook(look, with_kwargs=True)
    weight = decoder.get_input_embeddings().weight
    drawn = torch.randn(1, _TOKENS, weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        decoder(inputs_embeds=drawn.to(weight.device, weight.dtype).requires_grad_(), use_cache=False)
    handle.remove()
    return seen[0]


def _states_of(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _difference(tensor: Tensor, other: Tensor) -> float:
    return float((tensor - other).detach().float().norm() / other.float().norm())
