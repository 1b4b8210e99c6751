"""Speed and memory of the shapes recipe on this machine: `python benchmarks/run.py` (its part of RESULTS.md).

Throughput is measured side by side in one process per number of threads, as medians of rounds: training and scoring of
the same captions, laid out in three ways. Peak memory is the resident set of that process. Start-up is the median of
whole commands.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from results import machine, write_section

if TYPE_CHECKING:  # start-up is measured by a process that imports no torch
    from halspan.core.captions import Caption
    from halspan.models.detector import SpanDetector
    from halspan.models.inputs.batch import Batch
    from halspan.models.inputs.encoding import RowEncoder

ROOT = Path(__file__).parents[1]
HEADING = "## Commands and layouts"
ROUNDS = 5
IMAGES = 32
LAYOUTS = {
    "all captions of an image in one row": (8, False),
    "one caption a row": (1, False),
    "one sentence a row": (1, True),
}


def main() -> None:
    """Measure everything, or, in a child process, the throughput at one number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="measure throughput at so many threads and print JSON")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        print(json.dumps(measure_throughput(arguments.threads)))
        return
    about = f"`python benchmarks/run.py` on {machine()}."
    write_section(HEADING, [about, "", *startup_table(), "", *throughput_table((1, 2))])


def startup_table() -> list[str]:
    """Time commands that a person waits for, those that take less memory first."""
    commands = {
        "`import halspan`": ["-c", "import halspan"],
        "`halspan --help`": ["-c", "from halspan.cli import main; main(['--help'])"],
        "`python train.py --help`": ["train.py", "--help"],
        "`python train.py experiment=llama4_lora plan=true`": ["train.py", "experiment=llama4_lora", "plan=true"],
    }
    rows = []
    for name, command in commands.items():
        seconds = startup_seconds(command)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest so far, this one
        rows.append(f"| {name} | {seconds:.2f} | {peak:.0f} |")
    head = f"| command (median of {ROUNDS}, whole process) | seconds | peak memory, MiB |"
    return [head, "|---|---|---|", *rows]


def startup_seconds(arguments: Sequence[str]) -> float:
    """Return the median time of a Python command."""
    return median_seconds(
        lambda: subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    )


def median_seconds(work: Callable[[], object]) -> float:
    """Return the median time of `ROUNDS` calls, after one to warm up."""
    work()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def throughput_table(threads: Sequence[int]) -> list[str]:
    """Run one child process for each number of threads, so that each has its own peak memory."""
    lines = [
        "| layout | threads | training, captions/s | scoring, captions/s | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for count in threads:
        command = [sys.executable, __file__, "--threads", str(count)]
        environment = os.environ | {"OMP_NUM_THREADS": str(count)}
        output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
        result = json.loads(output.splitlines()[-1])
        for layout, (training, scoring) in result["captions_per_second"].items():
            lines.append(f"| {layout} | {count} | {training:.0f} | {scoring:.0f} | {result['peak_mib']:.0f} |")
    return lines


def measure_throughput(threads: int) -> dict[str, object]:
    """Train and score the same captions in each layout; captions per second, images read and encoded included."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    detector, encoder, captions = build()
    speeds = {}
    for layout, (captions_per_row, split) in LAYOUTS.items():
        rows = lay_out(captions, captions_per_row, split=split)
        train, score = training_step(detector, encoder, rows), scoring_pass(detector, encoder, rows)
        speeds[layout] = [len(captions) / median_seconds(work) for work in (train, score)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"captions_per_second": speeds, "peak_mib": peak}


def build() -> tuple[SpanDetector, RowEncoder, list[Caption]]:
    """Build the shapes detector, its encoder, and the captions of `IMAGES` photos of the shapes world."""
    from halspan.core.taxonomy import HALLUCINATION_TYPES
    from halspan.data.shapes import Shapes
    from halspan.models.detector import build_detector
    from halspan.models.model_spec import LoraSpec, ModelSpec

    spec = ModelSpec(
        backbone="checkpoints/shapes_backbone",
        prompt="<image>",
        context="bidirectional",
        max_tokens=512,
        pack_tokens=512,
        dtype="float32",
        attention="eager",
        lora=LoraSpec(r=16, alpha=32, dropout=0.0, targets=["language"]),
    )
    detector, encoder = build_detector(spec, HALLUCINATION_TYPES)
    corpus = Shapes().load()
    images = sorted({caption.image for caption in corpus.captions if caption.image.startswith("images/photo")})[:IMAGES]
    captions = [replace(c, image=str(corpus.image_path(c))) for c in corpus.captions if c.image in set(images)]
    return detector, encoder, captions


def lay_out(captions: Sequence[Caption], captions_per_row: int, *, split: bool) -> list[list[Caption]]:
    """Put captions, or each of their sentences as a caption of its own, into rows of one image."""
    pieces = [piece for caption in captions for piece in (sentences_of(caption) if split else [caption])]
    by_image: dict[str, list[Caption]] = {}
    for piece in pieces:
        by_image.setdefault(piece.image, []).append(piece)
    return [
        together[start : start + captions_per_row]
        for together in by_image.values()
        for start in range(0, len(together), captions_per_row)
    ]


def sentences_of(caption: Caption) -> list[Caption]:
    """Return each sentence as a caption of its own; what is known about it stays, its spans do not."""
    return [
        replace(
            caption,
            id=f"{caption.id}/{number}",
            text=caption.text[sentence.start : sentence.end],
            sentences=(replace(sentence, start=0, end=sentence.end - sentence.start),),
            spans=(),
        )
        for number, sentence in enumerate(caption.sentences)
    ]


def encode(encoder: RowEncoder, rows: Sequence[Sequence[Caption]], *, targets: bool) -> Batch:
    """Read the images of rows, and encode them."""
    from halspan.data.images import load_image

    return encoder.collate([encoder.encode(load_image(Path(row[0].image)), row, targets=targets) for row in rows])


def training_step(detector: SpanDetector, encoder: RowEncoder, rows: list[list[Caption]]) -> Callable[[], None]:
    """Return one pass forward and back over all rows, sixteen at a time, as in training."""
    import torch

    from halspan.core.loss_weights import LossWeights
    from halspan.core.losses import combine, loss_terms

    weights = LossWeights()

    def work() -> None:
        for start in range(0, len(rows), 16):
            batch = encode(encoder, rows[start : start + 16], targets=True)
            if batch.targets is None:
                raise RuntimeError("the encoder gave no targets, although they were asked for")
            with torch.autocast("cpu", torch.bfloat16):
                logits = detector(batch)
            torch.autograd.backward(combine(loss_terms(logits, batch.targets, weights), weights))

    return work


def scoring_pass(detector: SpanDetector, encoder: RowEncoder, rows: list[list[Caption]]) -> Callable[[], None]:
    """Return one forward pass over all rows, sixteen at a time."""
    import torch

    def work() -> None:
        for start in range(0, len(rows), 16):
            batch = encode(encoder, rows[start : start + 16], targets=False)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                detector(batch)

    return work


if __name__ == "__main__":
    main()
