"""Detectors on the tiny random models of `halspan.testing.tiny_families`, and batches for them."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import nn

from halspan.core.captions import Caption
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.inputs.batch import Batch
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import ModelSpec
from halspan.testing.tiny_families import PROMPTS, save_tiny
from halspan.testing.tiny_models import TAXONOMY, TEXTS, make_caption, make_image, spec_maker

CAPTIONS = tuple(map(make_caption, TEXTS))
SIZES = ((120, 90), (64, 128), (96, 32))  # pixels; images of one batch have different numbers of tokens and tiles


@lru_cache
def saved(name: str) -> str:
    """Save a family's tiny model once, and return its folder."""
    folder = Path(mkdtemp(prefix=f"{name}-"))
    save_tiny(name, folder)
    return str(folder)


def spec_of(name: str, **changes: Any) -> ModelSpec:
    """Return the spec of a family's detector, different from the default in what is given."""
    return spec_maker(saved(name), PROMPTS[name])(**({"max_tokens": 512} | changes))


def build(name: str, *, seed: int = 0, **changes: Any) -> tuple[SpanDetector, RowEncoder]:
    """Build a detector whose adapters do something: new ones are zero, and would hide mistakes."""
    torch.manual_seed(seed)
    detector, encoder = build_detector(spec_of(name, **changes), TAXONOMY)
    for path, parameter in detector.named_parameters():
        if "lora_B" in path:
            nn.init.normal_(parameter, std=0.1)
    return detector.eval(), encoder


def encode(encoder: RowEncoder, *rows: Sequence[Caption]) -> Batch:
    """Encode rows, each with an image of another size."""
    images = [make_image(n, width=SIZES[n % 3][0], height=SIZES[n % 3][1]) for n in range(len(rows))]
    return encoder.collate([encoder.encode(image, row) for image, row in zip(images, rows, strict=True)])
