"""Judging a detector: parts of a corpus scored, decided with what was tuned on validation, and summarised."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from halspan.core.captions import Prediction
from halspan.data.jsonl import write_jsonl
from halspan.data.rows import Row
from halspan.inference.scoring import CaptionScores
from halspan.inference.tuning import Tuned, predict, tune
from halspan.metrics.summary import summarize

Score = Callable[[Sequence[Row]], Iterable[CaptionScores]]
VAL = "val"


def evaluate(
    parts: Mapping[str, Sequence[Row]],
    *,
    score: Score,
    taxonomy: Sequence[str],
    folder: Path,
    tuned: Tuned | None = None,
) -> tuple[dict[str, Any], Tuned]:
    """Score parts of a corpus, leave the predictions of each as `<part>.jsonl`, and compute its figures.

    Args:
        parts: rows by the name of their part; with `val` if nothing is tuned yet.
        score: what the detector says about rows, in their order.
        taxonomy: the detector's types.
        folder: where the predictions go.
        tuned: temperature and decoding; None tunes them on `val`.

    Returns:
        The figures of each part, under `reasons` why a figure is null; and what was tuned.
    """
    scored: dict[str, Iterable[CaptionScores]] = {}
    if tuned is None:
        scored[VAL] = val = list(score(parts[VAL]))
        tuned = tune(val, taxonomy)
    metrics: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for part, rows in parts.items():
        predictions = list(predict(scored.pop(part) if part in scored else score(rows), tuned, taxonomy))
        write_jsonl(folder / f"{part}.jsonl", (prediction.to_record() for prediction in predictions))
        figures, missing = summarize(predictions)
        metrics[part] = figures | {"by_generator": _by_generator(predictions)}
        reasons |= {f"{part}.{path}": reason for path, reason in missing.items()}
    return metrics | {"reasons": reasons}, tuned


def evaluate_blind(rows: Sequence[Row], *, score: Score, tuned: Tuned, taxonomy: Sequence[str]) -> dict[str, Any]:
    """Compute how well the detector tells incorrect sentences of captions that have each other's images.

    Args:
        rows: captions whose images were exchanged.
        score: what the detector says about rows.
        tuned: temperature and decoding.
        taxonomy: the detector's types.
    """
    figures = summarize(list(predict(score(rows), tuned, taxonomy)))[0]["sentence"]["auroc"]
    return {"sentence.auroc.macro": figures["macro"], "sentence.auroc.by_generator": figures["by_generator"]}


def _by_generator(predictions: Sequence[Prediction]) -> dict[str, dict[str, Any]]:
    """Compute the main figures of each generator."""
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.caption.generator, []).append(prediction)
    figures = {}
    for generator, group in sorted(groups.items()):
        summary, _ = summarize(group)
        figures[generator] = {
            "n": {name: summary["n"][name] for name in ("captions", "sentences", "incorrect", "unknown")},
            "sentence.auroc": summary["sentence"]["auroc"]["pooled"],
            "span.char.f1": summary["span"]["char"]["f1"],
            "span.typed_char_f1": summary["span"]["typed_char_f1"],
        }
    return figures
