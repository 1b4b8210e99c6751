"""Training with kept features of images: `python benchmarks/kept_images.py` (its part of RESULTS.md).

A small LLaVA with random weights and 576 image tokens is trained for two epochs on photos of noise, with and without
`trainer.keep_images`. Times are of the CPU, on one thread, so that other processes change little. Images take the time
to decode, process and look them up, and that of all that runs before the text decoder.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from results import machine, write_section
from small_llava import TAXONOMY, Work, make_captions, make_spec, save_backbone

from halspan.core.loss_weights import LossWeights
from halspan.core.losses import combine, loss_terms
from halspan.data.controls import read_image
from halspan.data.rows import Row
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.inputs.batch import Batch
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.kept.keeping import Keeper, open_keeper
from halspan.models.kept.store import Store
from halspan.models.model_spec import ModelSpec
from halspan.training.encoding import EncodeRows

HEADING = "## Kept features of images"
ROWS_PER_STEP = 4
TOKENS_PER_PASS = 4096
WORK = Work(captions=3, sentences=3, words=10)


@dataclass
class Clock:
    """Seconds of CPU time of one epoch, and those of its images."""

    epoch: float = 0.0
    images: float = 0.0


def main() -> None:
    """Train for two epochs in both ways, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = save_backbone(folder / "backbone", WORK)
        rows = [make_row(folder, number) for number in range(arguments.images)]
        rounds = [measure(folder, rows, number) for number in range(arguments.rounds)]
        size = sum(path.stat().st_size for path in folder.glob("kept0/*/*.safetensors")) / arguments.images / 2**20
    write_section(HEADING, table(rounds, about, arguments.images, size))


def make_row(folder: Path, number: int) -> Row:
    """Write a photo of 640 x 480 pixels, and return it with its captions."""
    noise = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    path = folder / f"{number}.jpg"
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
    return Row(path, tuple(make_captions(WORK, path.name, number)))


def measure(folder: Path, rows: Sequence[Row], number: int) -> dict[str, list[Clock]]:
    """Train two epochs without and two with kept features, which have a folder of their own in each round."""
    spec = make_spec(folder / "backbone")
    clocks = {}
    for name in ("plain", "kept"):
        torch.manual_seed(0)
        detector, encoder = build_detector(spec, TAXONOMY)
        keeper = keeper_of(detector, encoder, spec, folder / f"kept{number}") if name == "kept" else None
        clocks[name] = train(detector, encoder, keeper, rows)
    return clocks


def keeper_of(detector: SpanDetector, encoder: RowEncoder, spec: ModelSpec, folder: Path) -> Keeper:
    """Open a folder for features of images."""
    keeper = open_keeper(detector, encoder, spec, store=Store(folder, gib=1), is_on=True, autocast=None, device="cpu")
    if keeper is None:
        raise SystemExit("the features of this backbone cannot be kept")
    detector.on_features = keeper.take
    return keeper


def train(detector: SpanDetector, encoder: RowEncoder, keeper: Keeper | None, rows: Sequence[Row]) -> list[Clock]:
    """Train two epochs, and return the time of each."""
    encode = EncodeRows(encoder, partial(read_image, blank=False), None if keeper is None else keeper.lookup)
    weights = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    detector.train()
    return [train_epoch(detector, encode, optimizer, rows) for _ in range(2)]


def train_epoch(detector: SpanDetector, encode: EncodeRows, optimizer: Any, rows: Sequence[Row]) -> Clock:
    """Train one epoch; what runs before the text decoder runs once more to be measured, outside of the epoch's time."""
    clock, terms = Clock(), LossWeights()
    for start in range(0, len(rows), ROWS_PER_STEP):
        batches, reading = timed(partial(encode, rows[start : start + ROWS_PER_STEP], tokens_per_pass=TOKENS_PER_PASS))
        _, step = timed(partial(take_step, detector, batches, optimizer, terms))
        clock.images += reading + sum(timed(partial(embed, detector, batch))[1] for batch in batches)
        clock.epoch += reading + step
    return clock


def take_step(detector: SpanDetector, batches: Sequence[Batch], optimizer: Any, terms: LossWeights) -> None:
    """Take one optimizer step."""
    optimizer.zero_grad()
    for batch in batches:
        if batch.targets is not None:
            combine(loss_terms(detector(batch), batch.targets, terms), terms).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def embed(detector: SpanDetector, batch: Batch) -> None:
    """Run what comes before the text decoder, without keeping anything."""
    keep, detector.on_features = detector.on_features, None
    detector.embed(batch)
    detector.on_features = keep


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result, and the CPU time that it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def table(rounds: Sequence[dict[str, list[Clock]]], about: str, n_images: int, size: float) -> list[str]:
    """Return the lines of the section."""
    lines = [
        f"`python benchmarks/kept_images.py` on {machine()}, one thread: two epochs of {n_images} photos of 640 x 480 "
        f"pixels, on {about}, with {WORK.describe()}, in float32 (an entry has {size:.1f} MiB). Seconds are of CPU "
        f"time; medians of {len(rounds)} rounds, with the smallest and the largest.",
        "",
        "| `trainer.keep_images` | epoch | seconds | of these on images, seconds | share on images |",
        "|---|---|---|---|---|",
    ]
    for name, value in (("plain", "false"), ("kept", "true")):
        for epoch in range(2):
            clocks = [clocks[name][epoch] for clocks in rounds]
            cells = [
                spread([clock.epoch for clock in clocks], "{:.1f}"),
                spread([clock.images for clock in clocks], "{:.2f}"),
                spread([100 * clock.images / clock.epoch for clock in clocks], "{:.1f} %"),
            ]
            lines.append(f"| {value} | {epoch + 1} | {' | '.join(cells)} |")
    return lines


def spread(values: Sequence[float], form: str) -> str:
    """Write a median with the smallest and the largest value."""
    middle, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
