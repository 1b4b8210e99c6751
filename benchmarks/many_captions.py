"""Scoring of many captions: `python benchmarks/many_captions.py` (its part of RESULTS.md).

A small LLaVA with random weights scores captions through `Detector.predict_many`, which takes the same path as
`halspan score`. First, captions of a block in two orders: image by image, and generator by generator, so that captions
of one image stand apart; beside them, the same without shared rows. Second, large photos with a short caption each,
whose reading and encoding is done by a thread while the model computes what is before them: CPU seconds of all threads,
and those of the model's thread alone. Time of the clock is not measured, because it needs quiet cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import Spread, leave, say
from PIL import Image
from results import machine, write_section
from small_llava import TAXONOMY, Work, make_captions, make_image, make_spec, save_backbone

from halspan.core.cost import Cost
from halspan.inference.detector import About, Detector
from halspan.inference.tuning import Tuned
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.inputs.batch import Batch

HEADING = "## Captions of one image that stand apart"
SIZE = (1600, 1200)  # pixels of a photo
SHARING = Work(image_tokens=256, captions=6, sentences=3)
PHOTOS = Work(image_tokens=64, captions=1, sentences=2)
BY_IMAGE = "image by image"
APART = "generator by generator"
ALONE = "generator by generator, a row each"
Question = tuple[Path, str]


@dataclass(frozen=True)
class Run:
    """One turn: CPU seconds of all threads and of the model's thread, per sentence; and what was computed."""

    cpu: float
    own: float
    cost: Cost
    padded: int


def main() -> None:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--images", type=int, default=20, help="images of 6 captions each, at most 42 for one block")
    parser.add_argument("--photos", type=int, default=60, help="photos with one caption each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = save_backbone(folder / "sharing", SHARING)
        orders = measure(sharing_ways(folder, arguments.images), arguments.rounds)
        save_backbone(folder / "photos", PHOTOS)
        photos = measure(photo_ways(folder, arguments.photos), arguments.rounds, cores=(1, 2))
    every = {
        name: [vars(run) | {"cost": run.cost.to_record()} for run in runs] for name, runs in (orders | photos).items()
    }
    leave("many_captions", every)
    lines = [
        f"`python benchmarks/many_captions.py` on {machine()}: {about}, float32, one thread of torch. "
        f"{arguments.images} images of {SHARING.image_tokens} tokens, with {SHARING.captions} captions of 1 to "
        f"{SHARING.sentences} sentences each, through `Detector.predict_many`. CPU milliseconds per sentence: the "
        f"median of {arguments.rounds} turns (lowest to highest).",
        "",
        *order_table(orders),
        "",
        f"{arguments.photos} photos of {SIZE[0]} x {SIZE[1]} pixels, for the model {PHOTOS.image_tokens} tokens each, "
        f"with one caption of {PHOTOS.sentences} sentences. CPU milliseconds per photo. What the model's thread does "
        "not take is reading, decoding and encoding in the other thread.",
        "",
        *photo_table(photos),
    ]
    write_section(HEADING, lines)


def load(backbone: Path) -> tuple[Detector, SpanDetector]:
    """Build the detector, and return the model in it as well."""
    spec = make_spec(backbone)
    torch.manual_seed(0)
    detector, encoder = build_detector(spec, TAXONOMY)
    about = About(name="benchmark", figures={}, origin={})
    return Detector(detector, encoder, spec=spec, taxonomy=TAXONOMY, tuned=Tuned(), about=about), detector


def sharing_ways(folder: Path, n_images: int) -> dict[str, Callable[[], Run]]:
    """Return captions in two orders, and with a copy of the image for each of them."""
    parts = load(folder / "sharing")
    places = [[folder / f"{number}-{one}.png" for one in range(SHARING.captions)] for number in range(n_images)]
    texts = []
    for number, copies in enumerate(places):
        for place in copies:
            make_image(SHARING, number).save(place)
        captions = make_captions(SHARING, "0.png", number)
        ends = [of.sentences[(number + one) % SHARING.sentences].end for one, of in enumerate(captions)]
        texts.append([of.text[:end] for of, end in zip(captions, ends, strict=True)])
    images, generators = range(n_images), range(SHARING.captions)
    ways = {
        BY_IMAGE: [(places[n][0], texts[n][one]) for n in images for one in generators],
        APART: [(places[n][0], texts[n][one]) for one in generators for n in images],
        ALONE: [(places[n][one], texts[n][one]) for one in generators for n in images],
    }
    return {name: partial(score, *parts, items) for name, items in ways.items()}


def photo_ways(folder: Path, n_photos: int) -> dict[str, Callable[[], Run]]:
    """Return photos with a caption each."""
    parts = load(folder / "photos")
    random = np.random.default_rng(0)
    items = []
    for number in range(n_photos):
        blocks = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        blocks.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        items.append((folder / f"{number}.jpg", make_captions(PHOTOS, "0.jpg", number)[0].text))
    return {"photos": partial(score, *parts, items)}


def score(detector: Detector, model: SpanDetector, items: Sequence[Question]) -> Run:
    """Score captions, and count what the model computes."""
    costs: list[Cost] = []
    sizes: list[int] = []

    def note(_: object, inputs: tuple[Batch]) -> None:
        costs.append(inputs[0].cost)
        sizes.append(inputs[0].size)

    hook = model.register_forward_pre_hook(note)
    clocks = (time.process_time, time.thread_time)
    starts = [clock() for clock in clocks]
    n_sentences = sum(len(answer.sentences) for answer in detector.predict_many(items))
    cpu, own = ((now() - start) / n_sentences for now, start in zip(clocks, starts, strict=True))
    hook.remove()
    return Run(cpu, own, sum(costs, Cost()), sum(sizes))


def measure(ways: dict[str, Callable[[], Run]], rounds: int, *, cores: Sequence[int] = (1,)) -> dict[str, list[Run]]:
    """Measure ways in turns, on so many cores, after a turn to warm up."""
    runs: dict[str, list[Run]] = {}
    there = sorted(os.sched_getaffinity(0))
    for turn in range(rounds + 1):
        for n_cores in cores:
            os.sched_setaffinity(0, there[-n_cores:])
            for name, way in ways.items():
                run = way()
                label = name if len(cores) == 1 else f"{n_cores} cores" if n_cores > 1 else "1 core"
                say(f"turn {turn} of {rounds}: {label}: {run}")
                if turn:
                    runs.setdefault(label, []).append(run)
    os.sched_setaffinity(0, there)
    return runs


def order_table(runs: dict[str, list[Run]]) -> list[str]:
    """Return the table of orders."""
    lines = [
        "| order of captions | ms per sentence | sentences per CPU second | images encoded | tokens | padding |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in runs.items():
        cost, padded = of[0].cost, of[0].padded
        spent = Spread([run.cpu for run in of])
        lines.append(
            f"| {name} | {spent.show(3, 1000)} | {1 / spent.median:.0f} | {cost.image_encodings} | {cost.tokens:,} | "
            f"{1 - cost.tokens / padded:.1%} |"
        )
    return lines


def photo_table(runs: dict[str, list[Run]]) -> list[str]:
    """Return the table of cores."""
    lines = ["| | all threads | the model's thread |", "|---|---|---|"]
    for name, of in runs.items():
        scale = 1000 * PHOTOS.sentences
        cpu, own = Spread([run.cpu for run in of]), Spread([run.own for run in of])
        lines.append(f"| {name} | {cpu.show(3, scale)} | {own.show(3, scale)} |")
    return lines


if __name__ == "__main__":
    main()
