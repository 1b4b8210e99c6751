"""Cost per sentence as inputs grow: `python benchmarks/growth.py` (its part of RESULTS.md).

A small LLaVA with random weights scores images with more sentences a caption, more captions an image, and more image
tokens, each beside the floor of the same captions (see `halspan.models.plan.floor`). Corpora of growing size are read,
split, grouped, ordered and, for a sample of their rows, encoded, each in a process of its own; no model runs there.
Times are CPU seconds of one pinned thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measuring import GIGA, Spread, leave, pin, say, take_turns
from PIL import Image
from results import machine, write_section
from small_llava import TAXONOMY, Work, make_captions, make_image, make_spec, save_backbone

from halspan.data.images import load_image
from halspan.data.readers.jsonl import JsonLines
from halspan.data.rows import Row, batches, group_rows
from halspan.data.split.parts import Split
from halspan.data.streams.records import Shard
from halspan.inference.detector import About, Detector
from halspan.inference.scorer import Scorer
from halspan.inference.tuning import Tuned
from halspan.models.backbones.loading import load_backbone
from halspan.models.detector import build_detector
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.plan.floor import count_floor, measure_row
from halspan.models.plan.skeleton import build_skeleton
from halspan.scoring.job import Job
from halspan.testing.tiny_detectors import build, spec_of
from halspan.training.encoding import EncodeRows

HEADING = "## Growth"
BASE = Work(image_tokens=256, captions=4, sentences=4)
GROWN = {
    "sentences a caption": [replace(BASE, sentences=n) for n in (1, 2, 5, 10, 20, 40)],
    "captions an image": [replace(BASE, captions=n) for n in (1, 2, 4, 8, 16)],
    "image tokens": [replace(BASE, image_tokens=n) for n in (64, 256, 576, 1024, 2025)],
}
SAMPLE = 64  # rows of a corpus that are encoded
CAPTIONS_PER_IMAGE = 6


def main() -> None:
    """Measure all, or, in a child process, one corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each size")
    parser.add_argument("--corpora", type=int, nargs="*", default=[1_000, 10_000, 90_000], help="captions of each")
    parser.add_argument("--scored", type=int, nargs="*", default=[1_000, 10_000, 90_000], help="captions of each")
    parser.add_argument("--corpus", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--backbone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pin()
    if arguments.corpus is not None:
        print(json.dumps(measure_corpus(arguments.corpus, arguments.backbone)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grown = {what: measure_growth(works, folder, rounds=arguments.rounds) for what, works in GROWN.items()}
        corpora = [run_corpus(n_captions, folder) for n_captions in arguments.corpora]
        scored = measure_scoring(arguments.scored, folder)
    leave("growth", {"growth": grown, "corpora": corpora, "scored": scored})
    lines = [introduce(arguments.rounds), "", *growth_table(grown), "", explain_corpora(), "", *corpora_table(corpora)]
    lines += ["", *scored_table(scored)]
    write_section(HEADING, lines)


def measure_growth(works: Sequence[Work], folder: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Score one image of each size, in turns; return what each takes per sentence, and the floor's operations."""
    ways: dict[str, Callable[[], int]] = {}
    floors = []
    for work in works:
        place = folder / f"backbone-{work.image_tokens}"
        if not place.exists():
            save_backbone(place, work)
        spec = make_spec(place, pack_tokens=8192, max_tokens=8192)
        torch.manual_seed(0)
        detector, encoder = build_detector(spec, TAXONOMY)
        scorer, image, captions = Scorer(detector, encoder, spec), make_image(work, 0), make_captions(work, "0", 0)

        def score(scorer: Scorer = scorer, image: Any = image, captions: Any = captions) -> int:
            rows = [Row(Path("0"), tuple(captions))]
            scored = scorer.score_rows(rows, read_image=lambda _: image, batch_tokens=16_384)
            return sum(len(of.sentence_logit) for of in scored)

        ways[str(vars(work))] = score
        skeleton = build_skeleton(make_spec(place, lora=None), n_types=len(TAXONOMY))
        row = measure_row(skeleton, encoder.encode(image, captions, targets=False))
        n_sentences = work.captions * work.sentences
        floors.append(count_floor(skeleton, [row], is_training=False).total / n_sentences)
    seconds = take_turns(ways, rounds=rounds)
    return [
        {"work": vars(work), "seconds": list(spent.values), "floor": floor}
        for work, spent, floor in zip(works, seconds.values(), floors, strict=True)
    ]


def run_corpus(n_captions: int, folder: Path) -> dict[str, float]:
    """Measure one corpus in a process of its own."""
    command = [sys.executable, __file__, "--corpus", str(n_captions), "--backbone", str(folder / "backbone-256")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    say(f"{n_captions:,} captions: {result['peak']:.0f} MiB")
    return result


def measure_corpus(n_captions: int, backbone: Path) -> dict[str, float]:
    """Read, split, group, order and encode one corpus; return CPU seconds of each, and memory in MiB."""
    with tempfile.TemporaryDirectory() as name:
        n_sentences = write_corpus(Path(name), n_captions)
        spec = make_spec(backbone)
        encoder = RowEncoder(load_backbone(spec).processor, spec, TAXONOMY)
        encode = EncodeRows(encoder, load_image)
        before, clock = peak_mib(), [time.process_time()]
        corpus = JsonLines(path=Path(name) / "captions.jsonl").load()
        clock.append(time.process_time())
        parts = Split(held_out=("paint",)).apply(corpus)
        clock.append(time.process_time())
        rows = group_rows(corpus, parts.train, max_captions=8)
        batches(encode.measure(rows), rows_per_batch=16, seed=0, epoch=0)
        clock.append(time.process_time())
        for row in rows[:SAMPLE]:
            encode([row], tokens_per_pass=4096)
        clock.append(time.process_time())
        n_sample = sum(len(caption.sentences) for row in rows[:SAMPLE] for caption in row.captions)
    spent = dict(zip(("read", "split", "order", "encode"), map(float.__sub__, clock[1:], clock[:-1]), strict=True))
    return {
        "captions": n_captions,
        "sentences": n_sentences,
        **{name: seconds / (n_sample if name == "encode" else n_sentences) for name, seconds in spent.items()},
        "before": before,
        "peak": peak_mib(),
    }


def measure_scoring(sizes: Sequence[int], folder: Path) -> dict[int, float]:
    """Score corpora from file to file with a tiny detector; return CPU seconds per sentence of each."""
    save_tiny(folder / "it")
    seconds = {}
    for n_captions in sizes:
        place = folder / f"scored-{n_captions}"
        place.mkdir()
        n_sentences = write_corpus(place, n_captions)
        job = Job(detector=str(folder / "it"), input_=place / "captions.jsonl", output=place / "scored.jsonl")
        job.loaded.predict(place / "0.png", "A first one.")
        start = time.process_time()
        job.run(Shard(), resume=False)
        seconds[n_captions] = (time.process_time() - start) / n_sentences
        say(f"{n_captions:,} captions scored: {seconds[n_captions] * 1e6:,.0f} us a sentence")
    return seconds


def save_tiny(folder: Path) -> None:
    """Export a tiny LLaVA with random weights."""
    detector, encoder = build("llava", attention="sdpa")
    about, spec = About(name="tiny", figures={}, origin={}), spec_of("llava", attention="sdpa")
    Detector(detector, encoder, spec=spec, taxonomy=TAXONOMY, tuned=Tuned(), about=about).save_pretrained(folder)


def write_corpus(folder: Path, n_captions: int) -> int:
    """Write captions of random words and images of one color; return the number of sentences."""
    work = replace(BASE, captions=CAPTIONS_PER_IMAGE, sentences=3)
    examples = [[caption.to_record() for caption in make_captions(work, "image", number)] for number in range(50)]
    n_sentences = 0
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
        for number in range(n_captions):
            image, place = divmod(number, CAPTIONS_PER_IMAGE)
            if place == 0:
                color = (image % 256, image // 256 % 256, image // 65_536)
                Image.new("RGB", (8, 8), color).save(folder / f"{image}.png")
            record = examples[image % 50][place]
            own = {"id": str(number), "image": f"{image}.png", "generator": "paint" if place == 5 else f"model{place}"}
            file.write(json.dumps(record | own) + "\n")
            n_sentences += len(record["sentences"])
    return n_sentences


def peak_mib() -> float:
    """Return the largest resident set of this process so far; `getrusage` would count the one that started it, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def introduce(rounds: int) -> str:
    """Say what was measured, and where."""
    return (
        f"`python benchmarks/growth.py` on {machine()}: the LLaVA of the sections above, {BASE.describe()} where "
        "nothing else is said, all captions of an image in one row; float32, one pinned thread. CPU milliseconds per "
        f"sentence: the median of {rounds} turns (lowest to highest)."
    )


def growth_table(grown: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the table of sizes."""
    lines = [
        "| what grows | to | ms per sentence | floor, GFLOP per sentence | ms per GFLOP |",
        "|---|---|---|---|---|",
    ]
    keys = dict(zip(grown, ("sentences", "captions", "image_tokens"), strict=True))
    for what, measures in grown.items():
        for of in measures:
            spent, floor = Spread(of["seconds"]), of["floor"] / GIGA
            lines.append(
                f"| {what} | {of['work'][keys[what]]:,} | {spent.show(3, 1000)} | {floor:.3f} | "
                f"{spent.median * 1000 / floor:.1f} |"
            )
    return lines


def explain_corpora() -> str:
    """Say what was done with corpora."""
    return (
        f"Corpora of {CAPTIONS_PER_IMAGE} captions an image and 3 sentences a caption, each in a process of its own: "
        "read from JSON Lines (headers of images included), split by image content, grouped into rows and ordered for "
        f"an epoch; {SAMPLE} rows are encoded. CPU microseconds per sentence; no model runs. Memory is the largest "
        "resident set beyond what the process had before it read."
    )


def corpora_table(corpora: Sequence[dict[str, float]]) -> list[str]:
    """Return the table of corpora."""
    lines = [
        "| captions | read | split | group and order | encode | memory, MiB | kB per caption |",
        "|---|---|---|---|---|---|---|",
    ]
    for of in corpora:
        times = " | ".join(f"{of[name] * 1e6:,.0f}" for name in ("read", "split", "order", "encode"))
        beyond = of["peak"] - of["before"]
        lines.append(f"| {of['captions']:,.0f} | {times} | {beyond:,.0f} | {beyond * 1024 / of['captions']:.1f} |")
    return lines


def scored_table(scored: dict[int, float]) -> list[str]:
    """Say what scoring takes by the size of the corpus, and return the table."""
    first = next(iter(scored.values()))
    lines = [
        "The same corpora scored from file to file, as `halspan score` does it, by a tiny LLaVA with random weights. "
        "CPU microseconds per sentence, without the loading of the detector.",
        "",
        "| captions | per sentence | beside the first |",
        "|---|---|---|",
    ]
    return lines + [f"| {n:,} | {spent * 1e6:,.0f} | {spent / first - 1:+.1%} |" for n, spent in scored.items()]


if __name__ == "__main__":
    main()
