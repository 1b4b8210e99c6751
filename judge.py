"""Scoring, judging and reporting, of detectors, ensembles and baselines: what train.py and evaluate.py share."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines import Baselines, Ground, judge_beside, read_back
from halspan.core.files import write_json

if TYPE_CHECKING:
    from halspan.core.captions import Caption, Prediction
    from halspan.core.cost import Cost
    from halspan.data.corpus import Corpus
    from halspan.data.split import Taken
    from halspan.inference.scoring import CaptionScores
    from halspan.inference.tuning import Tuned
    from halspan.models.detector import SpanDetector
    from halspan.models.encoding import RowEncoder
    from halspan.training.spec import RunSpec

logger = logging.getLogger("halspan.judge")

TRAIN, VAL, HELD_OUT, ALL = "train", "val", "test_heldout", "all"
TUNING = "tuning"  # the val part of an ensemble's members, where another corpus is judged
BLIND, BLANK = "blind", "blank"
CONTROLS = {BLIND: "images exchanged", BLANK: "blank images"}

Parts = Mapping[str, Sequence["Caption"]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Captions to score.

    Attributes:
        corpus: where they are from.
        captions: the captions.
        blank: whether every image is replaced by a grey one of its size.
    """

    corpus: "Corpus"
    captions: "Sequence[Caption]"
    blank: bool = False


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a detector said about the captions of each task.

    Attributes:
        about: the entry `detector` of `metrics.json`.
        taxonomy: its types.
        scores: by task.
        cost: by task.
    """

    about: Mapping[str, Any]
    taxonomy: Sequence[str]
    scores: "Mapping[str, Sequence[CaptionScores]]"
    cost: "Mapping[str, Cost]"


def plan_tasks(corpus: "Corpus", parts: Parts, *, seed: int) -> tuple[dict[str, Task], dict[str, str]]:
    """List what a detector has to score: every part but `train`, and the held-out one without its images.

    Args:
        corpus: where the captions are from, with absolute image paths.
        parts: captions by the name of their part.
        seed: of the exchange of images.

    Returns:
        The tasks by name; and, by direction, why images cannot be exchanged.
    """
    from halspan.data.blind import exchange_images

    tasks = {
        name: Task(corpus=corpus, captions=captions) for name, captions in parts.items() if name != TRAIN and captions
    }
    if not (held_out := parts.get(HELD_OUT)):
        return tasks, {}
    exchanged, kept = exchange_images(corpus, held_out, seed=seed)
    if exchanged:
        tasks[BLIND] = Task(corpus=corpus, captions=exchanged)
    tasks[BLANK] = Task(corpus=corpus, captions=held_out, blank=True)
    return tasks, kept


def score_tasks(
    detector: "SpanDetector",
    encoder: "RowEncoder",
    spec: "RunSpec",
    tasks: Mapping[str, Task],
    *,
    name: str,
    taxonomy: Sequence[str],
) -> Scored:
    """Score captions on the run's machine, with a progress bar.

    Args:
        detector: the trained detector.
        encoder: its encoder.
        spec: its run's.
        tasks: what to score.
        name: of the detector.
        taxonomy: its types; those of the corpus may be others.
    """
    from halspan.core.cost import Cost

    scores, costs = {}, {}
    for key, task in tasks.items():
        passes: list[Cost] = []
        scores[key] = list(_score(detector, encoder, spec, key, task, passes))
        costs[key] = sum(passes, Cost())
    return Scored(about=_describe(detector, spec, name), taxonomy=tuple(taxonomy), scores=scores, cost=costs)


def judge(
    members: Sequence[Scored],
    *,
    corpus: "Corpus",
    parts: Parts,
    folder: Path,
    seed: int,
    tuned: "Sequence[Tuned] | None" = None,
    baselines: Baselines,
    not_exchanged: Mapping[str, str],
    taken: "Taken",
) -> dict[str, Any]:
    """Compute every figure of a detector; leave predictions, what was tuned, `metrics.json` and the report.

    Args:
        members: what the detector said; several are averaged to one.
        corpus: where the captions are from.
        parts: captions by the name of their part.
        folder: where everything goes.
        seed: of the bootstrap.
        tuned: what each member was tuned to; None tunes the one there is on `val`.
        baselines: what stands beside it.
        not_exchanged: by direction, why images could not be exchanged.
        taken: what training took from the parts.

    Returns:
        What `metrics.json` holds.
    """
    from halspan.inference.seen_texts import judge_beside_train
    from halspan.inference.tuning import predict, tune
    from halspan.reporting.origin import describe_run

    scored = members[0] if len(members) == 1 else _average(members, tuned or ())
    if len(members) == 1 and tuned is not None:
        decided = tuned[0]
    else:
        decided = tune(scored.scores[TUNING if TUNING in scored.scores else VAL], scored.taxonomy)
    predictions = {
        name: list(predict(scores, decided, scored.taxonomy))
        for name, scores in scored.scores.items()
        if name != TUNING
    }
    judged = {name: items for name, items in predictions.items() if name not in CONTROLS}
    main = main_part(judged)
    ground = Ground(corpus=corpus, train=parts.get(TRAIN, ()), test=parts[main], part=main, folder=folder, seed=seed)
    rows, of_baselines = judge_beside(baselines, ground)  # before a file is replaced: one that is required may fail
    metrics, missing = _judge_parts(scored, judged, decided, corpus, folder, seed)
    metrics, of_train = judge_beside_train(metrics, judged, taken=taken, image_of=corpus.image_hash, seed=seed)
    metrics |= {
        "run": describe_run(corpus, parts.get(TRAIN, ())) | {"ground": ground.digest},
        "detector": dict(scored.about),
        "cost": scored.cost[main].to_record(),
    }
    if main == HELD_OUT:
        controls, of_controls = _judge_controls(predictions, not_exchanged, corpus, seed)
        metrics, missing = metrics | controls, missing | of_controls
    if len(members) > 1 and tuned is not None:
        metrics |= _judge_members(members, tuned, predictions[main], main, corpus, seed)
    metrics |= {"baselines": rows, "reasons": missing | of_train | of_baselines}
    write_json(folder / "tuned.json", decided.to_record())
    leave_figures(metrics, judged, folder)
    return metrics


def judge_baselines_alone(baselines: Baselines, *, corpus: "Corpus", folder: Path, seed: int) -> dict[str, Any]:
    """Judge baselines on a whole corpus; the page shows the predictions of the best one.

    Args:
        baselines: which, at least one; those that learn are fitted on other images than they are judged on.
        corpus: what they are judged on.
        folder: where everything goes.
        seed: of folds and bootstrap.

    Returns:
        What `metrics.json` holds.
    """
    from halspan.inference.evaluation import judge_part
    from halspan.reporting.origin import describe_run

    ground = Ground(corpus=corpus, test=corpus.captions, part=ALL, folder=folder, seed=seed)
    rows, reasons = judge_beside(baselines, ground)
    best = max(rows, key=lambda name: rows[name]["sentence.auroc.macro"] or 0)
    predictions = read_back(best, ground)
    figures, missing = judge_part(predictions, images=_images(corpus, predictions), seed=seed)
    metrics = {
        ALL: figures,
        "run": describe_run(corpus) | {"ground": ground.digest},
        "detector": {
            "name": rows[best]["title"],
            "backbone": None,
            "family": rows[best].get("family"),
            "random_weights": rows[best].get("random_weights", False),
        },
        "baselines": rows,
        "reasons": reasons | {f"{ALL}.{path}": reason for path, reason in missing.items()},
    }
    leave_figures(metrics, {ALL: predictions}, folder)
    return metrics


def main_part(parts: Mapping[str, Any]) -> str:
    """Name the part that a detector is judged by: the held-out one, else the last."""
    return HELD_OUT if HELD_OUT in parts else list(parts)[-1]


def leave_figures(metrics: Mapping[str, Any], parts: Mapping[str, "Sequence[Prediction]"], folder: Path) -> None:
    """Leave `metrics.json`, and `report.html` with its tables where the libraries for it are installed."""
    write_json(folder / "metrics.json", metrics)
    try:
        from halspan.reporting.report import write_report
    except ImportError as error:
        logger.warning("no report.html: %s is not installed (halspan[eval])", error.name)
        return
    from halspan.data.images import load_image

    write_report(
        folder,
        title=metrics["detector"]["name"],
        metrics=metrics,
        parts=parts,
        read_image=lambda path: load_image(Path(path)),
    )


def show_figures(metrics: Mapping[str, Any], folder: Path) -> None:
    """Show the figures and where the files are."""
    from halspan.console import open_console
    from halspan.reporting.headline import read_notes
    from halspan.reporting.tables import metrics_table

    console = open_console()
    console.print(metrics_table(metrics))
    for note in read_notes(metrics):
        console.print(note, markup=False)
    console.print(f"Figures: {folder / 'metrics.json'}   predictions: {folder / 'predictions'}", soft_wrap=True)


def _score(
    detector: "SpanDetector", encoder: "RowEncoder", spec: "RunSpec", name: str, task: Task, passes: "list[Cost]"
) -> Iterator["CaptionScores"]:
    import torch

    from halspan.console import track
    from halspan.data.blind import read_image
    from halspan.data.rows import group_rows
    from halspan.inference.scoring import score

    device = torch.device("cuda" if spec.trainer.accelerator == "gpu" else "cpu")
    scores = score(
        detector.to(device),
        encoder,
        group_rows(task.corpus, task.captions, max_captions=spec.trainer.captions_per_row),
        read_image=partial(read_image, blank=spec.blank_images or task.blank),
        rows_per_pass=spec.trainer.rows_per_pass or spec.trainer.rows_per_batch,
        autocast=torch.bfloat16 if spec.trainer.precision == "bf16-mixed" else None,
        on_pass=passes.append,
    )
    yield from track(scores, f"scoring {name}", total=len(task.captions))


def _describe(detector: "SpanDetector", spec: "RunSpec", name: str) -> dict[str, Any]:
    from halspan.metrics.self_preference import family_of_backbone
    from halspan.models.backbone import is_random

    config = detector.backbone.config
    return {
        "name": name,
        "backbone": spec.model.backbone,
        "family": family_of_backbone(config.model_type),
        "random_weights": is_random(config),
    }


def _average(members: Sequence[Scored], tuned: Sequence["Tuned"]) -> Scored:
    """Make one detector of several that have scored the same tasks."""
    from halspan.core.cost import Cost
    from halspan.inference.ensemble import Member, average

    taxonomy = tuple(dict.fromkeys(name for member in members for name in member.taxonomy))
    scores, cost = {}, {}
    for task in members[0].scores:
        said = [
            Member(name=one.about["name"], scores=one.scores[task], tuned=of_one, taxonomy=one.taxonomy)
            for one, of_one in zip(members, tuned, strict=True)
        ]
        scores[task] = list(average(said, taxonomy))
        cost[task] = sum((member.cost[task] for member in members), Cost())
    abouts = [member.about for member in members]
    families = {about["family"] for about in abouts}
    about = {
        "name": " + ".join(about["name"] for about in abouts),
        "backbone": ", ".join(dict.fromkeys(about["backbone"] for about in abouts)),
        "family": families.pop() if len(families) == 1 else None,
        "random_weights": any(about["random_weights"] for about in abouts),
    }
    return Scored(about=about, taxonomy=taxonomy, scores=scores, cost=cost)


def _judge_parts(
    scored: Scored,
    parts: Mapping[str, "Sequence[Prediction]"],
    tuned: "Tuned",
    corpus: "Corpus",
    folder: Path,
    seed: int,
) -> tuple[dict[str, Any], dict[str, str]]:
    from halspan.data.jsonl import write_jsonl
    from halspan.inference.evaluation import judge_part, judge_tokens

    metrics: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for part, items in parts.items():
        write_jsonl(folder / "predictions" / f"{part}.jsonl", (item.to_record() for item in items))
        figures, missing = judge_part(items, images=_images(corpus, items), threshold=tuned.threshold, seed=seed)
        figures["token"], of_tokens = judge_tokens(scored.scores[part], tuned)
        metrics[part] = figures
        reasons |= {f"{part}.{path}": reason for path, reason in (missing | of_tokens).items()}
    return metrics, reasons


def _judge_controls(
    predictions: Mapping[str, "Sequence[Prediction]"], not_exchanged: Mapping[str, str], corpus: "Corpus", seed: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Judge what the detector says of held-out captions without their images."""
    rows = {name: _row(title, predictions.get(name, ()), corpus, seed) for name, title in CONTROLS.items()}
    reasons = {
        f"{name}.sentence.auroc.macro": "no generator has sentences of both classes"
        for name, row in rows.items()
        if row["sentence.auroc.macro"] is None
    }
    if not_exchanged:
        rows[BLIND]["left_out"] = dict(not_exchanged)
        why = "; ".join(f"{direction}: {reason}" for direction, reason in not_exchanged.items())
        reasons |= {path: why for path in reasons if path.startswith(BLIND)}
    return rows, reasons


def _judge_members(
    members: Sequence[Scored],
    tuned: Sequence["Tuned"],
    ensemble: Sequence["Prediction"],
    part: str,
    corpus: "Corpus",
    seed: int,
) -> dict[str, Any]:
    """Judge the members of an ensemble alone, and what averaging gains over the best of them on the same captions."""
    from dataclasses import asdict

    from halspan.inference.tuning import predict
    from halspan.metrics.bootstrap import compare

    rows, predictions = {}, {}
    for member, of_member in zip(members, tuned, strict=True):
        name = member.about["name"]
        by_id = {item.caption.id: item for item in predict(member.scores[part], of_member, member.taxonomy)}
        predictions[name] = [by_id[item.caption.id] for item in ensemble]
        rows[name] = _row(name, predictions[name], corpus, seed, cost=member.cost[part].to_record(), **_marks(member))
    best = max(rows, key=lambda name: rows[name]["sentence.auroc.macro"] or 0)
    differences = compare(ensemble, predictions[best], images=_images(corpus, ensemble), seed=seed)
    gain = {path: asdict(difference) for path, difference in differences.items()}
    return {"members": rows, "gain": {"over": best} | gain}


def _row(title: str, predictions: Sequence["Prediction"], corpus: "Corpus", seed: int, **more: Any) -> dict[str, Any]:
    from halspan.inference.evaluation import judge_row

    return judge_row(title, predictions, images=_images(corpus, predictions), seed=seed, **more)


def _marks(scored: Scored) -> dict[str, Any]:
    return {key: scored.about[key] for key in ("family", "random_weights")}


def _images(corpus: "Corpus", predictions: Sequence["Prediction"]) -> list[str]:
    return [corpus.image_hash(prediction.caption) for prediction in predictions]
