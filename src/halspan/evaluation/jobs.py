"""The captions a detector scores to be judged: its parts, and the controls without the right images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from halspan.console import track
from halspan.core.captions import Caption
from halspan.core.cost import Cost
from halspan.core.errors import ModelError
from halspan.data.controls import exchange_images, read_image
from halspan.data.corpus import Corpus
from halspan.data.rows import group_rows
from halspan.data.split.parts import HELD_OUT, TRAIN
from halspan.inference.scorer import Scorer
from halspan.inference.scores import CaptionScores
from halspan.metrics.self_preference import family_of_backbone
from halspan.models.backbones.loading import is_random

ALL = "all"  # the only part, where a corpus is not divided
TUNING = "tuning"  # the val part of an ensemble's members, where another corpus is judged
BLIND, BLANK = "blind", "blank"
CONTROLS = {BLIND: "images exchanged", BLANK: "blank images"}

BLOCK_ROWS = 64
"""Rows that are scored together, whatever the number of processes."""

Parts = Mapping[str, Sequence[Caption]]
Blocks = dict[tuple[str, int], tuple[list[CaptionScores], Cost]]
"""Scores and cost of blocks, by the name of their job and their number in it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Captions to score.

    Attributes:
        corpus: Corpus of the captions.
        captions: Captions to score.
        blank: Whether every image is replaced by a gray one of its size.
    """

    corpus: Corpus
    captions: Sequence[Caption]
    blank: bool = False


@dataclass(frozen=True, kw_only=True)
class DetectorScores:
    """A detector's scores of the captions of each job.

    Attributes:
        about: Entry `detector` of `metrics.json`.
        taxonomy: Types of the detector.
        scores: Scores by job.
        cost: Cost by job.
    """

    about: Mapping[str, Any]
    taxonomy: Sequence[str]
    scores: Mapping[str, Sequence[CaptionScores]]
    cost: Mapping[str, Cost]


def plan_jobs(corpus: Corpus, parts: Parts, *, seed: int) -> tuple[dict[str, Job], dict[str, str]]:
    """List the jobs of a detector: every part but `train`, and the held-out part without its images.

    Args:
        corpus: Corpus of the captions, with absolute image paths.
        parts: Captions by the name of their part.
        seed: Seed of the exchange of images.

    Returns:
        The jobs by name; and by direction, the reason why images cannot be exchanged.
    """
    jobs = {
        name: Job(corpus=corpus, captions=captions) for name, captions in parts.items() if name != TRAIN and captions
    }
    if not (held_out := parts.get(HELD_OUT)):
        return jobs, {}
    exchanged, kept = exchange_images(corpus, held_out, seed=seed)
    if exchanged:
        jobs[BLIND] = Job(corpus=corpus, captions=exchanged)
    jobs[BLANK] = Job(corpus=corpus, captions=held_out, blank=True)
    return jobs, kept


def score_jobs(
    scorer: Scorer,
    jobs: Mapping[str, Job],
    *,
    name: str,
    taxonomy: Sequence[str],
    captions_per_row: int,
    batch_tokens: int,
    blank_images: bool = False,
) -> DetectorScores:
    """Score captions in this process alone, with a progress bar.

    Args:
        scorer: Scorer of the trained detector.
        jobs: Jobs to do.
        name: Name of the detector.
        taxonomy: Its types, which may differ from those of the corpus.
        captions_per_row: Largest number of captions of one image that are scored together.
        batch_tokens: Largest number of tokens in a forward pass, padding and images included.
        blank_images: Whether the detector was trained with gray images, and gets gray ones.
    """
    blocks = score_blocks(
        scorer, jobs, captions_per_row=captions_per_row, batch_tokens=batch_tokens, blank_images=blank_images
    )
    return join_blocks([blocks], jobs, scorer=scorer, name=name, taxonomy=taxonomy)


def score_blocks(
    scorer: Scorer,
    jobs: Mapping[str, Job],
    *,
    captions_per_row: int,
    batch_tokens: int,
    blank_images: bool = False,
    rank: int = 0,
    count: int = 1,
) -> Blocks:
    """Score the share of one process, with a progress bar.

    A block is always the same `BLOCK_ROWS` rows, and a forward pass has rows of one block only. The scores of a block
    are thus the same bits in whatever process it is scored. Processes take turns at blocks.

    Args:
        scorer: Scorer of the trained detector.
        jobs: Jobs to do.
        captions_per_row: Largest number of captions of one image that are scored together.
        batch_tokens: Largest number of tokens in a forward pass, padding and images included.
        blank_images: Whether the detector was trained with gray images, and gets gray ones.
        rank: 0-based number of this process.
        count: Number of processes.

    Returns:
        The scores of each block in its share, which may be empty, and their cost.
    """
    scored: Blocks = {}
    n_before = 0
    for key, job in jobs.items():
        rows = group_rows(job.corpus, job.captions, max_captions=captions_per_row)
        blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
        own = [number for number in range(len(blocks)) if (n_before + number) % count == rank]
        n_before += len(blocks)
        passes: dict[int, list[Cost]] = {number: [] for number in own}
        read = partial(read_image, blank=blank_images or job.blank)
        said = (
            (number, scores)
            for number in own
            for scores in scorer.score_rows(
                blocks[number], read_image=read, batch_tokens=batch_tokens, on_pass=passes[number].append
            )
        )
        by_block: dict[int, list[CaptionScores]] = {number: [] for number in own}
        n_captions = sum(len(row.captions) for number in own for row in blocks[number])
        for number, scores in track(said, f"scoring {key}", total=n_captions):
            by_block[number].append(scores)
        scored |= {(key, number): (by_block[number], sum(passes[number], Cost())) for number in own}
    return scored


def join_blocks(
    shares: Sequence[Blocks], jobs: Mapping[str, Job], *, scorer: Scorer, name: str, taxonomy: Sequence[str]
) -> DetectorScores:
    """Join the shares of all processes, in the order in which one process would have scored the captions.

    Raises:
        ModelError: Captions are missing.
    """
    blocks = {place: block for share in shares for place, block in share.items()}
    scores: dict[str, list[CaptionScores]] = {key: [] for key in jobs}
    costs = {key: Cost() for key in jobs}
    for key, number in sorted(blocks, key=lambda place: place[1]):
        said, cost = blocks[key, number]
        scores[key] += said
        costs[key] += cost
    for key, job in jobs.items():
        if len(scores[key]) != len(job.captions):
            raise ModelError(
                f"{key}: {len(scores[key]):,} of {len(job.captions):,} captions were scored; the processes do not "
                "have the same corpus: let all of them read the same files"
            )
    return DetectorScores(about=_describe(scorer, name), taxonomy=tuple(taxonomy), scores=scores, cost=costs)


def _describe(scorer: Scorer, name: str) -> dict[str, Any]:
    config = scorer.detector.backbone.config
    return {
        "name": name,
        "backbone": scorer.spec.backbone,
        "family": family_of_backbone(config.model_type),
        "random_weights": is_random(config),
        "scoring": asdict(scorer.scoring),
    }
