"""Low-rank adapters on chosen linear layers of a backbone, chosen by whole paths."""

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn

from halspan.core.errors import ModelError
from halspan.models.backbone import Backbone
from halspan.models.families import Family
from halspan.models.spec import LoraSpec


def add_lora(backbone: Backbone, spec: LoraSpec) -> Any:
    """Put adapters on the layers that a spec names; they alone are trainable.

    Args:
        backbone: a frozen model; changed in place.
        spec: rank and layers.

    Returns:
        The model as a `peft.PeftModel`.

    Raises:
        ModelError: a target is neither a component's name nor a pattern of any layer's path.
    """
    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        target_modules=target_pattern(backbone.model, backbone.family, spec.targets),
    )
    with warnings.catch_warnings():
        # peft 0.21 asks by a name that transformers 5.23 renames
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(backbone.model, config)


def target_pattern(model: nn.Module, family: Family, targets: Sequence[str]) -> str:
    """Make one regular expression of targets; it has to match a layer's whole path.

    Args:
        model: with the layers.
        family: names of components.
        targets: names of components, or patterns of whole paths.

    Raises:
        ModelError: a target matches no linear layer, or is no regular expression; lists what there is.
    """
    paths = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    patterns = [family.layers.get(target, target) for target in targets]
    for target, pattern in zip(targets, patterns, strict=True):
        if not any(_compile(pattern, target).fullmatch(path) for path in paths):
            raise ModelError(
                f"model.lora.targets: '{target}' matches no linear layer; names: {', '.join(family.layers)}; "
                f"or a pattern of a whole path (# is a number): {', '.join(_shapes(paths))}"
            )
    return "|".join(f"(?:{pattern})" for pattern in patterns)


def _compile(pattern: str, target: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ModelError(
            f"model.lora.targets: '{target}' is not a regular expression: {error}; a dot is written \\."
        ) from None


def _shapes(paths: Iterable[str]) -> list[str]:
    return sorted({re.sub(r"\b\d+\b", "#", path) for path in paths})
