"""Low-rank adapters on linear layers and experts of a backbone, chosen by full paths."""

import re
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import regex
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from halspan.core.errors import ModelError
from halspan.models.backbones.components import plain_path
from halspan.models.backbones.families import Family, find_decoder
from halspan.models.model_spec import EXPERTS, LoraSpec
from halspan.models.passes import run_one_at_a_time
from halspan.models.private.peft import cast_inputs_with

_MOST_SECONDS = 5


def add_lora(model: nn.Module, family: Family, spec: LoraSpec) -> Any:
    """Put adapters on the targets of a spec; only the adapters are trainable.

    Args:
        model: Frozen model; changed in place.
        family: Family of the backbone.
        spec: Rank and targets.

    Returns:
        The model as a `peft.PeftModel`.

    Raises:
        ModelError: A target matches nothing, or is not a regular expression.
    """
    pattern, layers, experts = find_targets(model, family, spec.targets, first=spec.layers or 0)
    if experts:
        from halspan.models.backbones.experts import prepare_experts

        prepare_experts(model, experts)
    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        target_modules="|".join(map(re.escape, layers)) or [],  # full paths, because the pattern may be slow on others
        target_parameters=experts or None,
    )
    with warnings.catch_warnings():
        # peft 0.21 uses a name that transformers 5.23 has changed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].target_modules = pattern or set()  # recorded in an export
    for module in adapted.modules():
        if isinstance(module, ParamWrapper):
            run_one_at_a_time(module)
        elif isinstance(module, BaseTunerLayer):
            cast_inputs_with(module, _cast_unless_autocast)
    return adapted


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """Return the weights of a backbone's adapters by PEFT's names; they share memory with the model's own."""
    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def find_targets(
    model: nn.Module, family: Family, targets: Sequence[str], *, first: int = 0
) -> tuple[str, list[str], list[str]]:
    """Return the layers and parameters that adapters go on.

    Args:
        model: Model with the layers; it may be on the meta device.
        family: Patterns of components.
        targets: Names of components, or patterns of whole paths of linear layers.
        first: Number of the first layer of the text decoder that is adapted.

    Returns:
        One regular expression that matches the whole paths of the linear layers (empty for none), these paths, and the
        paths of the parameters that hold routed experts.

    Raises:
        ModelError: A target matches nothing (the message lists the paths), or nothing from the first layer on, is not a
            regular expression, or takes too long.
    """
    paths = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    patterns = {target: family.layers.get(target, target) for target in targets if target != EXPERTS}
    names = ", ".join([*family.layers, EXPERTS])
    found: dict[str, None] = {}
    for target, pattern in patterns.items():
        matched = _match(pattern, target, paths)
        found |= dict.fromkeys(matched)
        if not matched:
            raise ModelError(
                f"model.lora.targets: '{target}' matches no linear layer; names: {names}; "
                f"or a pattern of a whole path (# is a number): {', '.join(_shapes(paths))}"
            )
    experts = _find_experts(model, family) if EXPERTS in targets else []
    whole = "|".join(f"(?:{pattern})" for pattern in patterns.values())
    if not first:
        return whole, list(found), experts
    below = _layers_below(model, family, first)
    layers, experts = ([path for path in paths if not re.match(below, path)] for paths in (found, experts))
    if not layers and not experts:
        raise ModelError(
            f"model.lora.layers: {first}, but model.lora.targets match nothing in layer {first} of the text decoder or "
            "above it; give a smaller number"
        )
    return f"(?!{below})(?:{whole})" if whole else "", layers, experts


def _layers_below(model: Any, family: Family, first: int) -> str:
    """Return a pattern of how the paths begin that belong to the lower layers of the text decoder."""
    decoder = find_decoder(model, family)
    path = next(name for name, module in model.named_modules() if module is decoder)
    return rf"{re.escape(path)}\.layers\.({'|'.join(map(str, range(first)))})\."


def _find_experts(model: nn.Module, family: Family) -> list[str]:
    parameters = [plain_path(name) for name, _ in model.named_parameters()]
    experts = [name for name in parameters if family.experts is not None and re.fullmatch(family.experts, name)]
    if not experts:
        raise ModelError(
            f"model.lora.targets: '{EXPERTS}' matches nothing: {type(model).__name__} has no routed experts "
            f"that halspan knows of; names: {', '.join(family.layers)}"
        )
    return experts


def _cast_unless_autocast(inputs: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Cast inputs to an adapter's precision, as peft does, unless autocast does it already.

    Both together cast back and forth, which takes a tenth of the time. peft's own switch belongs to the layer, so it
    would affect all threads.
    """
    if inputs is None or torch.is_autocast_enabled(inputs.device.type):
        return inputs
    return inputs.to(dtype)


def _match(pattern: str, target: str, paths: Sequence[str]) -> list[str]:
    """Return the paths that a pattern matches as a whole; time is limited, as an expression might never end."""
    end = time.monotonic() + _MOST_SECONDS
    try:
        compiled = regex.compile(pattern)
        return [path for path in paths if compiled.fullmatch(path, timeout=max(end - time.monotonic(), 0.001))]
    except TimeoutError:
        raise ModelError(
            f"model.lora.targets: '{target}' has not ended on {len(paths)} paths after {_MOST_SECONDS} seconds; remove "
            "nested repetitions"
        ) from None
    except regex.error as error:
        raise ModelError(
            f"model.lora.targets: '{target}' is not a regular expression: {error}; a dot is written \\."
        ) from None


def _shapes(paths: Iterable[str]) -> list[str]:
    return sorted({re.sub(r"\b\d+\b", "#", path) for path in paths})
