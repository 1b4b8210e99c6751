"""What else is in a pass, and P(incorrect): `python benchmarks/shared_pass.py` (its part of RESULTS.md).

Captions of the shapes world are scored by the shipped backbone with fresh heads and adapters from a seed: each alone in
a pass, then all of them in passes with others. The scores should differ by rounding alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Literal

import torch
from measuring import leave, pin, say
from results import machine, write_section
from torch import nn

from halspan.core.captions import Caption
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.corpus import Corpus
from halspan.data.images import load_image
from halspan.data.rows import Row, group_rows
from halspan.data.shapes import Shapes
from halspan.inference.scorer import Scorer
from halspan.models.detector import build_detector
from halspan.models.model_spec import SHAPES, LoraSpec, ModelSpec

HEADING = "## What shares a pass"
Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
SIZES = (512, 4096)  # tokens of a pass


def main() -> None:
    """Score in all ways, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of heads and adapters")
    arguments = parser.parse_args()
    pin()
    corpus = Shapes().load()
    captions = corpus.captions[: arguments.captions]
    results: dict[str, list[float]] = {}
    lines = [
        "| weights | tokens of a pass | sentences | largest difference | median | P(incorrect), lowest to highest |",
        "|---|---|---|---|---|---|",
    ]
    for dtype in DTYPES:
        scorer = build(dtype, arguments.seed)
        alone = score(scorer, corpus, [[caption] for caption in captions], batch_tokens=1)
        say(f"{dtype}: {len(captions)} captions alone")
        for size in SIZES:
            together = score(scorer, corpus, [captions], batch_tokens=size)
            differing = [abs(a - b) for a, b in zip(alone, together, strict=True)]
            results[f"{dtype}, {size}"] = differing
            say(f"{dtype}: passes of {size} tokens: {max(differing):.1e} at most")
            lines.append(
                f"| {dtype} | {size:,} | {len(differing):,} | {max(differing):.1e} | "
                f"{statistics.median(differing):.1e} | {min(alone):.3f} to {max(alone):.3f} |"
            )
    leave("shared_pass", results)
    write_section(HEADING, [introduce(len(captions)), "", *lines])


def build(dtype: Dtype, seed: int) -> Scorer:
    """Build the detector; its adapters do something."""
    spec = ModelSpec(
        backbone=SHAPES,
        prompt="<image>",
        context="bidirectional",
        max_tokens=1024,
        pack_tokens=128,
        dtype=dtype,
        attention="eager",
        lora=LoraSpec(r=16, alpha=32, dropout=0.0, targets=["language"]),
    )
    torch.manual_seed(seed)
    detector, encoder = build_detector(spec, HALLUCINATION_TYPES)
    for name, parameter in detector.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return Scorer(detector, encoder, spec)


def score(scorer: Scorer, corpus: Corpus, groups: Sequence[Sequence[Caption]], *, batch_tokens: int) -> list[float]:
    """Return P(incorrect) of every sentence, in the order of the captions; captions of a group may share passes."""
    p_incorrect: dict[str, list[float]] = {}
    for group in groups:
        rows: list[Row] = group_rows(corpus, group, max_captions=8)
        for scores in scorer.score_rows(rows, read_image=load_image, batch_tokens=batch_tokens):
            logits = [0.0 if logit is None else logit for logit in scores.sentence_logit]
            p_incorrect[scores.caption.id] = torch.tensor(logits, dtype=torch.float64).sigmoid().tolist()
    return [p for group in groups for caption in group for p in p_incorrect[caption.id]]


def introduce(n_captions: int) -> str:
    """Say what was measured, and where."""
    return (
        f"`python benchmarks/shared_pass.py` on {machine()}, one thread: {n_captions:,} captions of the shapes world, "
        "the shipped backbone with heads and adapters from a seed. Each caption is scored alone in a pass, and in "
        "passes with others; the difference is that of P(incorrect)."
    )


if __name__ == "__main__":
    main()
