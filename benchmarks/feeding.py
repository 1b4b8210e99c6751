"""What one core of a worker feeds a device: `python benchmarks/feeding.py` (its part of RESULTS.md).

Images are read, decoded, resized and packed with their captions, as training does in worker processes
(`trainer.workers`): first by parts in this process, then in one worker of a real data loader. No model runs. Images and
captions have the sizes of AlignBench (arXiv 2511.20515, table 2: 6.3 sentences of 17.7 words; six captioners for a
photo, one caption for a painted image). Seconds are of the CPU, on one pinned thread.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Spread, leave, pin, say
from PIL import Image
from results import machine, write_section
from small_llava import TAXONOMY, Work, make_captions, make_spec, save_backbone
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from halspan.data.controls import read_image
from halspan.data.rows import Row
from halspan.models.backbones.llama4_images import Llama4ImageProcessorPil
from halspan.models.backbones.processors import auto_processor, llama4_processor
from halspan.models.backbones.tiny import save_tiny_llama4
from halspan.models.inputs.batch import Batch
from halspan.models.inputs.encoding import RowEncoder
from halspan.training.encoding import EncodeRows

HEADING = "## What one worker core feeds"
LEAST = 16  # captions a second and core, asked of every way
ROWS_PER_STEP = 4
TOKENS_PER_PASS = 16_384
PIXELS = 336
STAGES = ("reading and decoding", "processor", "captions and packing")
PROMPTS = {"llama4": "<|image|>What is wrong?"}


@dataclass(frozen=True)
class Kind:
    """Images of one size and format, with their captions."""

    name: str
    size: tuple[int, int]
    suffix: str
    work: Work


KINDS = (
    Kind("photo, 640 x 480, JPEG", (640, 480), "jpg", Work(captions=6, sentences=6, words=18)),
    Kind("photo, 1,024 x 1,024, JPEG", (1024, 1024), "jpg", Work(captions=6, sentences=6, words=18)),
    Kind("painted, 1,024 x 1,024, JPEG", (1024, 1024), "jpg", Work(captions=1, sentences=3, words=23)),
    Kind("painted, 1,024 x 1,024, PNG", (1024, 1024), "png", Work(captions=1, sentences=3, words=23)),
)


def main() -> None:
    """Measure every kind of image with every processor, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    pin()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {kind: [make_row(folder, kind, n) for n in range(arguments.images)] for kind in KINDS}
        encoders = make_encoders(folder, [caption.text for row in rows[KINDS[0]] for caption in row.captions])
        measured = {
            (kind, way): measure(rows[kind], encoder, kind, way, arguments.rounds)
            for kind in KINDS
            for way, encoder in encoders.items()
        }
        drafts = [measure_draft(row.image) for row in rows[KINDS[1]]]
        sizes = {kind: float(np.mean([row.image.stat().st_size for row in rows[kind]])) / 1000 for kind in KINDS}
    about = introduce(arguments.images, arguments.rounds, sizes)
    write_section(HEADING, [about, "", *table(measured), "", tell(measured, drafts)])
    leave("feeding", {f"{kind.name}; {way}": vars(of) for (kind, way), of in measured.items()})


def make_row(folder: Path, kind: Kind, number: int) -> Row:
    """Write an image of coarse shapes with fine grain, which is as long as a photo's file, and its captions."""
    source = np.random.default_rng(number)
    blocks = Image.fromarray(source.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    coarse = np.asarray(blocks.resize(kind.size, Image.Resampling.BICUBIC), dtype=np.float32)
    grain = source.normal(0, 6, coarse.shape[:2])[..., None]
    path = folder / f"{KINDS.index(kind)}-{number}.{kind.suffix}"
    Image.fromarray((coarse + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return Row(path, tuple(make_captions(kind.work, path.name, number)))


def make_encoders(folder: Path, texts: Sequence[str]) -> dict[str, RowEncoder]:
    """Make an encoder for each processor; all but the first cut texts into pieces of words, as real ones do."""
    save_backbone(folder / "llava", Work())
    save_tiny_llama4(folder / "llama4")
    llama4 = llama4_processor(str(folder / "llama4"), None)
    llama4.image_processor = Llama4ImageProcessorPil(size={"height": PIXELS, "width": PIXELS}, max_patches=16)
    llama4.patch_size = 14
    pieces = make_tokenizer(texts)
    edge = {"shortest_edge": PIXELS}
    images = CLIPImageProcessorPil(size=edge, crop_size={"height": PIXELS, "width": PIXELS})
    clip = LlavaProcessor(images, pieces, patch_size=14, vision_feature_select_strategy="default")
    clip.num_additional_image_tokens = 1
    spec = make_spec(folder / "llava", max_tokens=8192, pack_tokens=8192)
    of_llama4 = make_spec(folder / "llama4", prompt=PROMPTS["llama4"], max_tokens=8192, pack_tokens=8192)
    return {
        "small LLaVA, SigLIP, 384 px": RowEncoder(auto_processor(str(folder / "llava"), None), spec, TAXONOMY),
        "LLaVA-1.5's, CLIP, 336 px": RowEncoder(clip, spec, TAXONOMY),
        "Llama-4's, up to 16 tiles of 336 px": RowEncoder(llama4, of_llama4, TAXONOMY),
    }


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of few pieces, so that a word has two to three of them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=["<pad>", "<image>"])
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", extra_special_tokens={"image_token": "<image>"}
    )


@dataclass(frozen=True)
class Measured:
    """CPU seconds per image and stage, and captions per CPU second of one worker."""

    stages: Mapping[str, Spread]
    speed: Spread
    tokens: float


def measure(rows: Sequence[Row], encoder: RowEncoder, kind: Kind, way: str, rounds: int) -> Measured:
    """Measure the stages in this process and the whole in a worker, after a round to warm up."""
    stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
    speeds: list[float] = []
    for turn in range(rounds + 1):
        fresh = pickle.loads(pickle.dumps(encoder))  # captions that were tokenized before would cost nothing
        found = measure_stages(rows, fresh)
        speed = kind.work.captions / measure_worker(rows, encoder)
        say(f"{kind.name}; {way}: {speed:.0f} captions a CPU second")
        if turn:
            speeds.append(speed)
            for stage, seconds in zip(STAGES, found, strict=True):
                stages[stage].append(seconds)
    tokens = float(
        np.mean([encoder.length(encoder.encode(read_image(row.image, blank=False), row.captions)) for row in rows])
    )
    return Measured({stage: Spread(seconds) for stage, seconds in stages.items()}, Spread(speeds), tokens)


def measure_stages(rows: Sequence[Row], encoder: RowEncoder) -> tuple[float, float, float]:
    """Return the CPU seconds per image of each stage; packing is what the whole takes beyond the others."""
    images, reading = timed(lambda: [read_image(row.image, blank=False) for row in rows])
    _, processing = timed(lambda: [encoder.encode(image, ()) for image in images])
    encode = EncodeRows(encoder, partial(read_image, blank=False))
    _, whole = timed(lambda: [encode(step, tokens_per_pass=TOKENS_PER_PASS) for step in steps_of(rows)])
    return reading / len(rows), processing / len(rows), max(0.0, whole - reading - processing) / len(rows)


def measure_worker(rows: Sequence[Row], encoder: RowEncoder) -> float:
    """Return the CPU seconds per image of one worker process, its start and the way to this process included."""
    encode = EncodeRows(copy.copy(encoder), partial(read_image, blank=False))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    loader = DataLoader(Steps(rows, encode), batch_size=None, num_workers=1, multiprocessing_context="fork")
    for passes in loader:
        if not passes:
            raise SystemExit("a step without a pass")
    del loader  # waits for the worker, whose time counts once it has ended
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(rows)


class Steps(Dataset[tuple[Batch, ...]]):
    """Rows of some steps, encoded when they are asked for."""

    def __init__(self, rows: Sequence[Row], encode: EncodeRows) -> None:
        self._steps = steps_of(rows)
        self._encode = encode

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: int) -> tuple[Batch, ...]:
        return self._encode(self._steps[step], tokens_per_pass=TOKENS_PER_PASS)


def steps_of(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Divide rows into steps."""
    return [rows[start : start + ROWS_PER_STEP] for start in range(0, len(rows), ROWS_PER_STEP)]


def measure_draft(path: Path) -> tuple[float, float]:
    """Return the CPU seconds to decode a JPEG whole, and at the smallest of its own scales that is large enough."""

    def decode(scale: Callable[[Image.Image], Any]) -> bytes:
        with Image.open(path) as image:
            scale(image)
            return image.tobytes()

    whole = timed(lambda: [decode(lambda _: None) for _ in range(3)])[1]
    draft = timed(lambda: [decode(lambda image: image.draft("RGB", (PIXELS, PIXELS))) for _ in range(3)])[1]
    return whole / 3, draft / 3


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result, and the CPU time of this process that it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def introduce(n_images: int, rounds: int, sizes: Mapping[Kind, float]) -> str:
    """Say what was measured, and where."""
    files = "; ".join(f"{kind.name}: {size:,.0f} kB" for kind, size in sizes.items())
    return (
        f"`python benchmarks/feeding.py` on {machine()}, one pinned thread: {n_images} images of each kind ({files}), "
        f"with 6 captions of 6 sentences of 18 words for a photo and one of 3 sentences of 23 words for a painted "
        f"image. Captions a second are those of one worker process of a data loader, for each second of its CPU time; "
        f"milliseconds are of CPU time for an image, of its stages in one process. Medians of {rounds} rounds (lowest "
        "to highest); captions and packing are what the whole takes beyond the other two."
    )


def table(measured: Mapping[tuple[Kind, str], Measured]) -> list[str]:
    """Return the table of the section."""
    stages = " | ".join(f"{stage}, ms" for stage in STAGES)
    lines = [
        f"| image | processor | tokens a row | captions per second and core | {stages} |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, way), of in measured.items():
        cells = [of.stages[stage].show(scale=1000) for stage in STAGES]
        lines.append(f"| {kind.name} | {way} | {of.tokens:,.0f} | {of.speed.show()} | {' | '.join(cells)} |")
    return lines


def tell(measured: Mapping[tuple[Kind, str], Measured], drafts: Sequence[tuple[float, float]]) -> str:
    """Say whether every way is fast enough, and what JPEG's own scales would save."""
    slowest = min(measured, key=lambda key: measured[key].speed.median)
    speed = measured[slowest].speed.median
    whole, draft = (1000 * float(np.median(seconds)) for seconds in zip(*drafts, strict=True))
    return (
        f"The slowest is {slowest[0].name} with {slowest[1]}: {speed:.1f} captions a second, "
        f"{'at least' if speed >= LEAST else 'less than'} the {LEAST} asked for. Decoding a JPEG of 1,024 x 1,024 at "
        f"the smallest of its own scales that has {PIXELS} pixels would take {draft:.1f} instead of {whole:.1f} ms, "
        "but gives other pixels than decoding it whole, so it is not done."
    )


if __name__ == "__main__":
    main()
