"""The captions a detector scores to be judged: its parts, and the controls without the right images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from halspan.console import track
from halspan.core.captions import Caption
from halspan.core.cost import Cost
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

Parts = Mapping[str, Sequence[Caption]]


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
    """Score captions with a progress bar.

    Args:
        scorer: Scorer of the trained detector.
        jobs: Jobs to do.
        name: Name of the detector.
        taxonomy: Its types, which may differ from those of the corpus.
        captions_per_row: Largest number of captions of one image that are scored together.
        batch_tokens: Largest number of tokens in a forward pass, padding and images included.
        blank_images: Whether the detector was trained with gray images, and gets gray ones.
    """
    scores, costs = {}, {}
    for key, job in jobs.items():
        passes: list[Cost] = []
        said = scorer.score_rows(
            group_rows(job.corpus, job.captions, max_captions=captions_per_row),
            read_image=partial(read_image, blank=blank_images or job.blank),
            batch_tokens=batch_tokens,
            on_pass=passes.append,
        )
        scores[key] = list(track(said, f"scoring {key}", total=len(job.captions)))
        costs[key] = sum(passes, Cost())
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
