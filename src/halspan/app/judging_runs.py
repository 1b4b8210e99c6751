"""Evaluation of finished runs and baselines after the captions have been read. Its imports take seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from halspan.app.finished_run import FinishedRun
from halspan.app.fitting import make_scorer, tokens_per_pass
from halspan.app.results import leave_figures, show_figures
from halspan.data.corpus import Corpus
from halspan.data.split.parts import VAL, Taken
from halspan.evaluation.baselines.runner import Baselines
from halspan.evaluation.jobs import ALL, TUNING, DetectorScores, Job, plan_jobs, score_jobs
from halspan.evaluation.judging import judge, judge_baselines_alone
from halspan.evaluation.sampling import JudgeSpec, Sample
from halspan.models.detector import build_detector
from halspan.training.fit import check_machine, seed_process
from halspan.training.module import load_trained


def judge_runs(
    runs: Sequence[FinishedRun],
    *,
    corpus: Corpus,
    sample: Sample,
    taken: Taken,
    folder: Path,
    baselines: Baselines,
    is_other: bool,
    judge_spec: JudgeSpec,
) -> None:
    """Score captions with the detectors of runs and judge them as one detector.

    Args:
        runs: the runs.
        corpus: where the captions are from.
        sample: captions to judge.
        taken: what training took from the parts.
        folder: where everything goes.
        baselines: Baselines to judge on the same captions.
        is_other: whether the corpus is not the one of the runs.
        judge_spec: how much of the runs' own corpus tunes an ensemble that is judged on another one.
    """
    first = runs[0]
    jobs, not_exchanged = plan_jobs(corpus, sample.parts, seed=first.spec.seed)
    if is_other and len(runs) > 1:
        own = first.own.data.load().relocated(None)
        own_parts = first.own.split.apply(own)
        first.check_contents(own, own_parts)
        val = judge_spec.choose({VAL: own_parts.val}, seed=first.spec.seed).parts[VAL]
        jobs |= {TUNING: Job(corpus=own, captions=val)}
    metrics, predictions = judge(
        [score_run(run, jobs) for run in runs],
        tuned=[run.tuned for run in runs],
        corpus=corpus,
        sample=sample,
        folder=folder,
        seed=first.spec.seed,
        baselines=baselines,
        not_exchanged=not_exchanged,
        taken=taken,
    )
    leave_figures(metrics, predictions, folder)
    show_figures(metrics, folder)


def score_run(run: FinishedRun, jobs: Mapping[str, Job]) -> DetectorScores:
    """Load the detector of a run, score with it, and release it."""
    check_machine(run.spec.trainer)
    seed_process(run.spec.trainer, run.spec.seed)
    taxonomy = run.split["taxonomy"]
    detector, encoder = build_detector(run.spec.model, taxonomy)
    load_trained(detector, run.place.best)
    return score_jobs(
        make_scorer(detector, encoder, run.spec),
        jobs,
        name=run.place.path.name,
        taxonomy=taxonomy,
        captions_per_row=run.spec.trainer.captions_per_row,
        batch_tokens=tokens_per_pass(run.spec),
        blank_images=run.spec.blank_images,
    )


def judge_alone(baselines: Baselines, *, corpus: Corpus, judge_spec: JudgeSpec, folder: Path, seed: int) -> None:
    """Judge baselines on a corpus, and show how they did."""
    sample = judge_spec.choose({ALL: corpus.captions}, seed=seed)
    metrics, predictions = judge_baselines_alone(baselines, corpus=corpus, sample=sample, folder=folder, seed=seed)
    leave_figures(metrics, predictions, folder)
    show_figures(metrics, folder)
