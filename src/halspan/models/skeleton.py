"""Detectors without memory: the real classes on torch's meta device, to count before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from halspan.models.backbone import TINY_LLAMA4, Backbone, find_family, read_config
from halspan.models.detector import SpanDetector
from halspan.models.families import Family
from halspan.models.spec import ModelSpec
from halspan.models.tiny import tiny_llama4_config

_SHIPPED = Path(__file__).parent / "configurations"  # one file for each hub id, `/` written as `--`


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
    config = _configuration(spec)
    family = find_family(spec, config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, spec.dtype), attn_implementation=spec.attention
        )
        decoder = model.get_decoder() if family.decoder is None else model.get_submodule(family.decoder)
        backbone = Backbone(model=model.requires_grad_(False), processor=None, family=family)
        detector = SpanDetector(backbone, lora=spec.lora, n_types=n_types)
    return Skeleton(spec=spec, detector=detector, family=family, config=config, decoder=decoder)


def _configuration(spec: ModelSpec) -> Any:
    """Give the built-in configuration, one that comes with halspan, which needs no network, a folder's or the hub's."""
    if spec.backbone == TINY_LLAMA4:
        return tiny_llama4_config()
    shipped = _SHIPPED / f"{spec.backbone.replace('/', '--')}.json"
    if shipped.is_file() and not Path(spec.backbone).is_dir():
        return AutoConfig.from_pretrained(shipped)
    return read_config(spec)


def shipped_ids() -> list[str]:
    """List the hub ids whose configuration comes with halspan."""
    return sorted(file.stem.replace("--", "/") for file in _SHIPPED.glob("*.json"))
