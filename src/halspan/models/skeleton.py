"""Detectors without memory: the real classes on torch's meta device, to count before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from halspan.core.errors import ModelError
from halspan.models.backbone import TINY_LLAMA4, Backbone
from halspan.models.detector import SpanDetector
from halspan.models.families import Family, family_of
from halspan.models.spec import ModelSpec

_SHIPPED = Path(__file__).parent / "configurations"  # one file for each hub id, `/` written as `--`
_BUILTIN = "builtin:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A detector as shapes without values.

    Attributes:
        spec: what it was built from.
        detector: with adapters and heads, on the meta device.
        family: where its backbone's parts are.
        config: transformers' configuration of the backbone.
        decoder: the text decoder, adapters included.
    """

    spec: ModelSpec
    detector: SpanDetector
    family: Family
    config: Any
    decoder: nn.Module

    def suits(self, spec: ModelSpec) -> bool:
        """Say whether a spec asks for the same shapes and dtypes."""
        here, there = ((one.backbone, one.revision, one.dtype, one.lora) for one in (self.spec, spec))
        return here == there


def build_skeleton(spec: ModelSpec, *, n_types: int) -> Skeleton:
    """Build the detector that a spec describes without loading anything.

    Linear layers and experts have the spec's dtype: quantising happens while weights are read.

    Args:
        spec: backbone and adapters.
        n_types: types of the taxonomy.

    Raises:
        ModelError: there is no such backbone, it is no vision-language model, or a LoRA target matches nothing.
    """
    config = read_configuration(spec)
    with torch.device("meta"):
        try:
            model = AutoModelForImageTextToText.from_config(
                config, dtype=getattr(torch, spec.dtype), attn_implementation=spec.attention
            )
        except ValueError as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"model.backbone: {spec.backbone!r} cannot be built: {reason}") from error
        family = family_of(config.model_type)
        decoder = model.get_decoder() if family.decoder is None else model.get_submodule(family.decoder)
        backbone = Backbone(model=model.requires_grad_(False), processor=None, family=family)
        detector = SpanDetector(backbone, lora=spec.lora, n_types=n_types)
    return Skeleton(spec=spec, detector=detector, family=family, config=config, decoder=decoder)


def read_configuration(spec: ModelSpec) -> Any:
    """Read the transformers configuration of the backbone that a spec names.

    A folder's own, the built-in one, one that comes with halspan (which needs no network), or the hub's.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    if spec.backbone.startswith(_BUILTIN):
        return _built(spec.backbone)
    folder = Path(spec.backbone)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(
            f"model.backbone: the folder {spec.backbone!r} has no config.json, so it holds no checkpoint; "
            "give a folder that save_pretrained wrote, or a hub id"
        )
    shipped = _SHIPPED / f"{spec.backbone.replace('/', '--')}.json"
    source, revision = (shipped, None) if not folder.is_dir() and shipped.is_file() else (spec.backbone, spec.revision)
    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        if folder.is_dir():
            raise ModelError(
                f"model.backbone: {spec.backbone!r}: the folder cannot be read: {reason}; repair or replace it"
            ) from error
        raise ModelError(
            f"model.backbone: {spec.backbone!r}: no folder, and as a hub id cannot be read: {reason}; give a folder "
            "that exists, or download the hub id once where there is a network (`hf download`, HF_HUB_OFFLINE unset); "
            f"a plan needs no download for: {', '.join(shipped_ids())}"
        ) from error


def shipped_ids() -> list[str]:
    """List the hub ids whose configuration comes with halspan."""
    return sorted(file.stem.replace("--", "/") for file in _SHIPPED.glob("*.json"))


def _built(name: str) -> Any:
    from halspan.models.tiny import tiny_llama4_config

    if name != TINY_LLAMA4:
        raise ModelError(f"model.backbone: {name!r} is not built in; what is: {TINY_LLAMA4}")
    return tiny_llama4_config()
