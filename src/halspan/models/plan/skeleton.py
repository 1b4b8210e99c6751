"""Detectors without memory: the real classes on torch's meta device, to count bytes before loading."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from halspan.models.backbones.depth import cut_config
from halspan.models.backbones.families import Family, find_decoder
from halspan.models.backbones.flex import implementation_of, use_flex
from halspan.models.backbones.loading import TINY_LLAMA4, Backbone, find_family, read_config
from halspan.models.backbones.tiny import tiny_llama4_config
from halspan.models.detector import SpanDetector
from halspan.models.model_spec import ModelSpec

_SHIPPED = Path(__file__).parent / "configurations"  # one file for each hub id, `/` written as `--`


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A detector as shapes without values.

    Attributes:
        spec: Spec that it was built from.
        detector: Detector with adapters and heads, on the meta device.
        family: Family of the backbone.
        config: Transformers' configuration of the backbone.
        decoder: Text decoder, adapters included.
    """

    spec: ModelSpec
    detector: SpanDetector
    family: Family
    config: Any
    decoder: nn.Module

    def suits(self, spec: ModelSpec) -> bool:
        """Return whether a spec asks for the same shapes and dtypes."""
        shapes = ("backbone", "revision", "read_layer", "dtype", "attention", "lora", "token_head", "sentence_head")
        return all(getattr(self.spec, key) == getattr(spec, key) for key in shapes)


def build_skeleton(spec: ModelSpec, *, n_types: int) -> Skeleton:
    """Build the detector that a spec describes, without loading anything.

    Linear layers and experts have the spec's dtype, because quantization takes place while weights are read.

    Args:
        spec: Backbone and adapters.
        n_types: Number of types in the taxonomy.

    Raises:
        ModelError: The backbone does not exist, it is not a vision-language model, or a LoRA target matches nothing.
    """
    config = _configuration(spec)
    family = find_family(spec, config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, spec.dtype), attn_implementation=implementation_of(spec.attention)
        )
        decoder = find_decoder(model, family)
        if spec.attention == "flex":
            use_flex(decoder)
        backbone = Backbone(model=model.requires_grad_(False), processor=None, family=family)
        detector = SpanDetector(
            backbone, lora=spec.lora, token_head=spec.token_head, sentence_head=spec.sentence_head, n_types=n_types
        )
    return Skeleton(spec=spec, detector=detector, family=family, config=config, decoder=decoder)


def _configuration(spec: ModelSpec) -> Any:
    """Return the backbone's configuration: built in, shipped with halspan (no network), from a folder or the hub."""
    if spec.backbone == TINY_LLAMA4:
        return cut_config(tiny_llama4_config(), spec.read_layer)
    shipped = _SHIPPED / f"{spec.backbone.replace('/', '--')}.json"
    if shipped.is_file() and not Path(spec.source).is_dir():
        return cut_config(AutoConfig.from_pretrained(shipped), spec.read_layer)
    return read_config(spec)


def shipped_ids() -> list[str]:
    """Return the hub ids whose configuration comes with halspan."""
    return sorted(file.stem.replace("--", "/") for file in _SHIPPED.glob("*.json"))
