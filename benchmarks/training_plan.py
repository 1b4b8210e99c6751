"""What both trainings of `benchmarks/training.py` share: data, weights, optimizer, and what they print."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from small_llava import TAXONOMY, Work, make_captions, make_image, make_spec
from torch import nn

from halspan.core.loss_weights import LossWeights
from halspan.data.rows import Row
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.inputs.encoding import RowEncoder
from halspan.training.run_spec import OptimizerSpec

SKIPPED = 2  # first steps, which do not count
SEED = 0
LOSS = LossWeights()
OPTIMIZER = OptimizerSpec(
    lora_lr=2e-4,
    head_lr=1e-3,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    warmup_fraction=0.1,
    schedule="cosine",
    clip_norm=1.0,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run: what it trains on, how often, and how.

    Attributes:
        folder: Where the backbone is.
        work: Size of images and captions.
        images: Images to train on.
        images_per_step: Images of one optimizer step.
        steps: Optimizer steps.
        read_layer: Layers of the text decoder; None for all.
        keeps_images: Whether features of images are kept.
    """

    folder: Path
    work: Work
    images: int
    images_per_step: int
    steps: int
    read_layer: int | None = None
    keeps_images: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run printed.

    Attributes:
        seconds: CPU seconds of each optimizer step.
        losses: Loss of each.
        peak: Largest resident set, MiB.
        before: Largest resident set before training began, with all weights in memory, MiB.
    """

    seconds: list[float]
    losses: list[float]
    peak: float
    before: float

    @property
    def per_step(self) -> float:
        """Return CPU seconds of a step, without the first ones."""
        return sum(self.seconds[SKIPPED:]) / len(self.seconds[SKIPPED:])


def make_rows(plan: Plan, folder: Path) -> list[Row]:
    """Write images, and return the rows to train on."""
    rows = []
    for number in range(plan.images):
        file = folder / f"{number}.png"
        make_image(plan.work, number).save(file)
        rows.append(Row(file, tuple(make_captions(plan.work, file.name, number))))
    return rows


def build(plan: Plan) -> tuple[SpanDetector, RowEncoder]:
    """Build the detector with its first weights."""
    torch.manual_seed(SEED)
    detector, encoder = build_detector(make_spec(plan.folder, read_layer=plan.read_layer), TAXONOMY)
    for name, parameter in detector.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)  # at 0, the first steps would not train the other half
    return detector, encoder


def differences(times: Sequence[float]) -> list[float]:
    """Return the time from each to the next."""
    return [after - before for before, after in pairwise(times)]


def n_captions(rows: Sequence[Row]) -> int:
    """Count the captions of rows."""
    return sum(len(row.captions) for row in rows)


def peak_mib() -> float:
    """Return the largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
