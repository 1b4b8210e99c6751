"""Figures of predictions: for a part, for each of its generators, and the intervals around them."""

from collections.abc import Iterable, Sequence
from typing import Any

from halspan.core.captions import Prediction
from halspan.core.targets import token_labels
from halspan.inference.scores import CaptionScores
from halspan.inference.tuning import Tuned, token_probabilities
from halspan.metrics.bootstrap import intervals
from halspan.metrics.span import Counts, count_tokens
from halspan.metrics.summary import summarize

OWN_TOKENS = "of this backbone's tokens; do not compare across tokenizers"
_OF_ROW = ("sentence.auroc.macro", "sentence.auroc.pooled", "span.char.f1")


def judge_part(
    predictions: Sequence[Prediction], *, images: Sequence[str], threshold: float = 0.5, seed: int = 0
) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute every figure of a part, of each generator, and 95 % intervals by a bootstrap over images.

    Args:
        predictions: Predictions of all captions of the part.
        images: Hash of each caption's image.
        threshold: Lowest P(incorrect) at which a sentence counts as called incorrect.
        seed: Seed of the bootstrap.

    Returns:
        The figures, as `metrics.json` has them for a part; and by dotted path, the reason for a null.
    """
    figures, reasons = summarize(predictions, threshold=threshold)
    ranges, without = intervals(predictions, images=images, threshold=threshold, seed=seed)
    figures["n"]["images"] = len(set(images))  # by content, like the intervals: paths may have the same image
    figures["by_generator"] = _by_generator(predictions)
    figures["ci95"] = {path: list(limits) for path, limits in ranges.items()}
    return figures, reasons | {f"ci95.{path}": reason for path, reason in without.items()}


def judge_row(
    title: str, predictions: Sequence[Prediction], *, images: Sequence[str], seed: int = 0, **more: Any
) -> dict[str, Any]:
    """Compute the figures of one detector for a table of detectors, with intervals.

    Args:
        title: Title of the row.
        predictions: Predictions of all captions of the part.
        images: Key of the image of each caption.
        seed: Seed of the bootstrap.
        **more: Other values of the row.
    """
    figures, _ = summarize(predictions)
    ranges, _ = intervals(predictions, images=images, seed=seed)
    auroc = figures["sentence"]["auroc"]
    marks_words = any(item.spans for item in predictions)
    shown = _OF_ROW if marks_words else _OF_ROW[:-1]
    return {
        "title": title,
        "sentence.auroc.macro": auroc["macro"],
        "sentence.auroc.pooled": auroc["pooled"],
        "sentence.auroc.by_generator": auroc["by_generator"],
        "span.char.f1": figures["span"]["char"]["f1"] if marks_words else None,
        "ci95": {path: list(limits) for path, limits in ranges.items() if path in shown},
        "n_unscored": figures["n"]["unscored"],
        **more,
    }


def judge_tokens(scores: Iterable[CaptionScores], tuned: Tuned) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute precision, recall and F1 over the backbone's own tokens, at the decoding threshold.

    Returns:
        The entry `token` of a part in `metrics.json`; and by dotted path, the reason for a null.
    """
    counts = Counts()
    for item in scores:
        gold, known = token_labels(item.caption, item.offsets)
        predicted = token_probabilities(item, tuned) >= tuned.decoding.threshold
        counts += count_tokens(gold=gold, predicted=predicted, known=known)
    figures = {"precision": counts.precision if counts.gold else None, "recall": counts.recall, "f1": counts.f1}
    why = "nothing is predicted" if counts.gold else "no gold spans"
    reasons = {f"token.{name}": why for name, value in figures.items() if value is None}
    return figures | {"note": OWN_TOKENS}, reasons


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
