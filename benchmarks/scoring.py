"""Scoring in every way there is, side by side: `python benchmarks/scoring.py` (its part of RESULTS.md).

A small LLaVA with random weights scores the sentences of an image in several ways, in turns, on one pinned thread. The
first two read P(yes) of a prompt for each sentence with transformers alone; the others are halspan's. Times are CPU
seconds of the process. Operations are those of matrix products as torch counts them, of pairs that a mask hides, too;
the floor has none of these (see `halspan.models.plan.floor`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import GIGA, Spread, count_operations, leave, pin, ratio, say, take_turns
from PIL import Image
from results import machine, write_section
from small_llava import PROMPT, TAXONOMY, Work, make_captions, make_image, make_spec, save_backbone, sentences_of
from torch import Tensor
from transformers import AutoProcessor, DynamicCache, LlavaForConditionalGeneration

from halspan.core.captions import Caption
from halspan.data.rows import Row
from halspan.inference.detector import About, Detector
from halspan.inference.scorer import Scorer
from halspan.inference.tuning import Tuned
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import ModelSpec
from halspan.models.plan.floor import count_floor, measure_row
from halspan.models.plan.skeleton import build_skeleton

HEADING = "## Scoring, side by side"
TOKENS = 16_384  # of a pass
PER_SENTENCE = "a prompt for each sentence"
SHARED = "the same, prefix from a key-value cache"
PER_CAPTION = "halspan, one caption a pass"
PER_IMAGE = "halspan, one row an image"
EXPORT = "halspan, export through `Detector`"
COMMAND = "halspan, export through `halspan score`"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every way gets: an image and its captions, and the models."""

    work: Work
    image: Image.Image
    path: Path
    captions: Sequence[Caption]
    model: Any
    processor: Any
    detector: SpanDetector
    encoder: RowEncoder
    spec: ModelSpec
    exported: Detector


def main() -> None:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--image-tokens", type=int, default=Work.image_tokens, help="a square number")
    parser.add_argument("--captions", type=int, default=Work.captions, help="captions of the image")
    parser.add_argument("--sentences", type=int, default=Work.sentences, help="sentences of a caption")
    parser.add_argument("--images", type=int, default=6, help="images that `halspan score` scores beyond its first two")
    arguments = parser.parse_args()
    pin()
    work = Work(image_tokens=arguments.image_tokens, captions=arguments.captions, sentences=arguments.sentences)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = save_backbone(folder / "backbone", work)
        bench = prepare(work, folder)
        seconds = take_turns(ways_of(bench), rounds=arguments.rounds)
        seconds[COMMAND] = measure_command(bench, folder, n_images=arguments.images, rounds=min(3, arguments.rounds))
        operations = count_ways(bench)
    leave("scoring", {"seconds": seconds, "operations": operations})
    write_section(HEADING, [introduce(about, work, arguments.rounds), "", *table(seconds, operations)])


def prepare(work: Work, folder: Path) -> Bench:
    """Build the models and write the export."""
    spec = make_spec(folder / "backbone")
    torch.manual_seed(0)
    detector, encoder = build_detector(spec, TAXONOMY)
    about = About(name="benchmark", figures={}, origin={})
    live = Detector(detector, encoder, spec=spec, taxonomy=TAXONOMY, tuned=Tuned(), about=about)
    live.save_pretrained(folder / "export")
    image = make_image(work, 0)
    image.save(folder / "image.png")
    model = LlavaForConditionalGeneration.from_pretrained(folder / "backbone", attn_implementation="sdpa").eval()
    return Bench(
        work=work,
        image=image,
        path=folder / "image.png",
        captions=make_captions(work, "0.png", 0),
        model=model,
        processor=AutoProcessor.from_pretrained(folder / "backbone", backend="pil"),
        detector=detector,
        encoder=encoder,
        spec=spec,
        exported=Detector.from_pretrained(folder / "export"),
    )


def ways_of(bench: Bench) -> dict[str, Callable[[], int]]:
    """Return each way as a function that returns how many sentences it scored."""
    captions, scorer = bench.captions, Scorer(bench.detector, bench.encoder, bench.spec)
    every = sentences_of(captions)

    def rows(groups: Sequence[Sequence[Caption]], batch_tokens: int) -> int:
        together = [Row(bench.path, tuple(group)) for group in groups]
        scored = list(scorer.score_rows(together, read_image=lambda _: bench.image, batch_tokens=batch_tokens))
        return sum(len(of.sentence_logit) for of in scored)

    def export() -> int:
        items = [(bench.path, one.text, [(s.start, s.end) for s in one.sentences]) for one in captions]
        return sum(len(of.sentences) for of in bench.exported.predict_many(items))

    def prompts() -> int:
        one_caption = sentences_of(captions[:1])  # the others take the same again
        return len(prompt_each(bench, one_caption))

    return {
        PER_SENTENCE: prompts,
        SHARED: lambda: len(prompt_with_shared_prefix(bench, every)),
        PER_CAPTION: lambda: rows([[caption] for caption in captions], batch_tokens=1),
        PER_IMAGE: lambda: rows([captions], TOKENS),
        EXPORT: export,
    }


@torch.inference_mode()
def prompt_each(bench: Bench, sentences: Sequence[str]) -> Tensor:
    """Return P(yes) of each sentence; every prompt has the image, and all of them are one batch."""
    texts = [f"{PROMPT} {sentence}" for sentence in sentences]
    inputs = bench.processor(text=texts, images=[bench.image] * len(texts), padding=True, return_tensors="pt")
    last = inputs["attention_mask"].sum(dim=1) - 1
    states = bench.model.model(**inputs, use_cache=False).last_hidden_state
    return p_yes(bench, states[torch.arange(len(texts)), last])


@torch.inference_mode()
def prompt_with_shared_prefix(bench: Bench, sentences: Sequence[str]) -> Tensor:
    """Return P(yes) of each sentence; the prompt is read once, and its keys and values are repeated for all."""
    inputs = bench.processor(text=[PROMPT], images=[bench.image], return_tensors="pt")
    cache = DynamicCache(config=bench.model.config.get_text_config())
    bench.model.model(**inputs, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(sentences))
    texts = bench.processor.tokenizer(list(sentences), padding=True, return_tensors="pt")
    n_prefix = inputs["input_ids"].shape[1]
    seen = torch.cat([torch.ones(len(sentences), n_prefix, dtype=torch.long), texts["attention_mask"]], dim=1)
    states = bench.model.model(
        input_ids=texts["input_ids"], attention_mask=seen, past_key_values=cache, use_cache=True
    ).last_hidden_state
    last = texts["attention_mask"].sum(dim=1) - 1
    return p_yes(bench, states[torch.arange(len(sentences)), last])


def p_yes(bench: Bench, states: Tensor) -> Tensor:
    """Return P(yes) against no, from the last states of prompts."""
    ids = bench.processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    logits: Tensor = bench.model.lm_head(states)
    return logits[:, ids].softmax(dim=-1)[:, 0]


def count_ways(bench: Bench) -> dict[str, float]:
    """Count the operations of each way per sentence, and those of the floor."""
    counts: dict[str, float] = {}
    for name, work in ways_of(bench).items():
        done: list[int] = []
        counts[name] = count_operations(partial(_note, work, done)) / done[0]
        say(f"counted: {name}: {counts[name] / GIGA:.3f} GFLOP a sentence")
    counts[COMMAND] = counts[EXPORT]
    spec = make_spec(Path(bench.spec.backbone), lora=None)  # adapters are merged before scoring
    skeleton = build_skeleton(spec, n_types=len(TAXONOMY))
    row = measure_row(skeleton, bench.encoder.encode(bench.image, bench.captions, targets=False))
    n_sentences = len(sentences_of(bench.captions))
    counts["floor"] = count_floor(skeleton, [row], is_training=False).total / n_sentences
    return counts


def _note(work: Callable[[], int], done: list[int]) -> None:
    done.append(work())


def measure_command(bench: Bench, folder: Path, *, n_images: int, rounds: int) -> Spread:
    """Return CPU seconds per sentence of `halspan score`: the difference of a long input to a short one."""
    write_records(bench.work, folder, n_images=2, name="short")
    write_records(bench.work, folder, n_images=2 + n_images, name="long")
    n_sentences = n_images * bench.work.captions * bench.work.sentences
    seconds = []
    for number in range(rounds):
        short, long = (run_command(folder, name) for name in ("short", "long"))
        seconds.append((long - short) / n_sentences)
        say(f"round {number + 1} of {rounds}: {COMMAND}: {seconds[-1] * 1000:.1f} ms")
    return Spread(seconds)


def write_records(work: Work, folder: Path, *, n_images: int, name: str) -> None:
    """Write images and their captions as JSON Lines."""
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for number in range(n_images):
            make_image(work, number).save(folder / f"{number}.png")
            for caption in make_captions(work, f"{number}.png", number):
                file.write(json.dumps(caption.to_record()) + "\n")


def run_command(folder: Path, name: str) -> float:
    """Return the CPU seconds of one `halspan score`."""
    call = "from halspan.cli import main; main()"
    output = folder / f"{name}-scored.jsonl"
    places = ["--detector", str(folder / "export"), "--input", str(folder / f"{name}.jsonl"), "--output", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", call, "score", *places, "--overwrite"], env=environment, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"halspan score ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def introduce(about: str, work: Work, rounds: int) -> str:
    """Say what was measured, and where."""
    return (
        f"`python benchmarks/scoring.py` on {machine()}: {about}, {work.describe()}; float32, one pinned thread. CPU "
        f"milliseconds per sentence: the median of {rounds} turns (lowest to highest). Operations are those "
        "of matrix products, those that a mask hides included; the floor has none of these."
    )


def table(seconds: dict[str, Spread], operations: dict[str, float]) -> list[str]:
    """Return the table of the section."""
    lines = [
        "| way | ms per sentence | times the first | times the second | GFLOP per sentence | of the floor |",
        "|---|---|---|---|---|---|",
    ]
    for name, spent in seconds.items():
        first, second = (
            ratio(Spread(seconds[of].values[: len(spent.values)]), spent).show(3) for of in (PER_SENTENCE, SHARED)
        )
        counted = operations[name]
        lines.append(
            f"| {name} | {spent.show(3, 1000)} | {first} | {second} | {counted / GIGA:.3f} | "
            f"{counted / operations['floor']:.2f} |"
        )
    return [*lines, f"| the floor | | | | {operations['floor'] / GIGA:.3f} | 1 |"]


if __name__ == "__main__":
    main()
