"""Judging: all figures of a detector, of an ensemble, or of baselines alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from halspan.core.captions import Prediction
from halspan.core.cost import Cost
from halspan.core.files import write_json
from halspan.data.corpus import Corpus
from halspan.data.readers.jsonl import write_jsonl
from halspan.data.split.parts import HELD_OUT, TRAIN, VAL, Taken
from halspan.evaluation.baselines.runner import Baselines, Ground, judge_beside, read_back
from halspan.evaluation.ensemble import Member, average
from halspan.evaluation.figures import judge_part, judge_row, judge_tokens
from halspan.evaluation.jobs import ALL, BLIND, CONTROLS, TUNING, DetectorScores
from halspan.evaluation.origin import describe_run
from halspan.evaluation.sampling import Sample
from halspan.evaluation.seen_texts import judge_beside_train
from halspan.inference.tuning import Tuned, predict, tune
from halspan.metrics.bootstrap import compare


def judge(
    members: Sequence[DetectorScores],
    *,
    corpus: Corpus,
    sample: Sample,
    folder: Path,
    seed: int,
    tuned: Sequence[Tuned] | None = None,
    baselines: Baselines,
    not_exchanged: Mapping[str, str],
    taken: Taken,
) -> tuple[dict[str, Any], dict[str, list[Prediction]]]:
    """Compute every figure of a detector; write its predictions and its tuned settings.

    Args:
        members: what the detector said; several are averaged to one.
        corpus: where the captions are from.
        sample: captions by the name of their part.
        folder: where everything goes.
        seed: of the bootstrap.
        tuned: what each member was tuned to; None tunes the one there is on `val`.
        baselines: Figures of the baselines.
        not_exchanged: by direction, why images could not be exchanged.
        taken: what training took from the parts.

    Returns:
        Content of `metrics.json`.
    """
    parts = sample.parts
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
    rows, of_baselines = judge_beside(baselines, ground)  # before any file is replaced: a required one may fail
    metrics, missing = _judge_parts(scored, judged, decided, corpus, folder, seed)
    for name, figures in metrics.items():
        _count_sample(figures, name, sample)
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
    return metrics, judged


def judge_baselines_alone(
    baselines: Baselines, *, corpus: Corpus, sample: Sample, folder: Path, seed: int
) -> tuple[dict[str, Any], dict[str, list[Prediction]]]:
    """Judge baselines on captions of a corpus; the page shows the predictions of the best one.

    Args:
        baselines: which, at least one; those that learn are fitted on other images than they are judged on.
        corpus: where the captions are from.
        sample: what they are judged on, as the part `all`.
        folder: where everything goes.
        seed: of folds and bootstrap.

    Returns:
        Content of `metrics.json`.
    """
    ground = Ground(corpus=corpus, test=sample.parts[ALL], part=ALL, folder=folder, seed=seed)
    rows, reasons = judge_beside(baselines, ground)
    best = max(rows, key=lambda name: rows[name]["sentence.auroc.macro"] or 0)
    predictions = read_back(best, ground)
    figures, missing = judge_part(predictions, images=_images(corpus, predictions), seed=seed)
    _count_sample(figures, ALL, sample)
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
    return metrics, {ALL: predictions}


def main_part(parts: Mapping[str, Any]) -> str:
    """Return the name of the part that a detector is judged by: the held-out one, else the last."""
    return HELD_OUT if HELD_OUT in parts else list(parts)[-1]


def _average(members: Sequence[DetectorScores], tuned: Sequence[Tuned]) -> DetectorScores:
    """Combine the scores of several detectors for the same jobs into those of one detector."""
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
    return DetectorScores(about=about, taxonomy=taxonomy, scores=scores, cost=cost)


def _judge_parts(
    scored: DetectorScores,
    parts: Mapping[str, Sequence[Prediction]],
    tuned: Tuned,
    corpus: Corpus,
    folder: Path,
    seed: int,
) -> tuple[dict[str, Any], dict[str, str]]:

    metrics: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for part, items in parts.items():
        write_jsonl(folder / "predictions" / f"{part}.jsonl", (item.to_record() for item in items))
        figures, missing = judge_part(items, images=_images(corpus, items), threshold=tuned.threshold, seed=seed)
        figures["token"], of_tokens = judge_tokens(scored.scores[part], tuned)
        metrics[part] = figures
        reasons |= {f"{part}.{path}": reason for path, reason in (missing | of_tokens).items()}
    return metrics, reasons


def _count_sample(figures: dict[str, Any], part: str, sample: Sample) -> None:
    """Add of how many captions those of a part were chosen, where not all are judged."""
    if part in sample.sampled_from:
        figures["n"]["sampled_from"] = sample.sampled_from[part]


def _judge_controls(
    predictions: Mapping[str, Sequence[Prediction]], not_exchanged: Mapping[str, str], corpus: Corpus, seed: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Judge a detector on held-out captions without their images."""
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
    members: Sequence[DetectorScores],
    tuned: Sequence[Tuned],
    ensemble: Sequence[Prediction],
    part: str,
    corpus: Corpus,
    seed: int,
) -> dict[str, Any]:
    """Judge each member of an ensemble alone, and the gain of averaging over the best one on the same captions."""
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


def _row(title: str, predictions: Sequence[Prediction], corpus: Corpus, seed: int, **more: Any) -> dict[str, Any]:

    return judge_row(title, predictions, images=_images(corpus, predictions), seed=seed, **more)


def _marks(scored: DetectorScores) -> dict[str, Any]:
    return {key: scored.about[key] for key in ("family", "random_weights")}


def _images(corpus: Corpus, predictions: Sequence[Prediction]) -> list[str]:
    return [corpus.image_hash(prediction.caption) for prediction in predictions]
