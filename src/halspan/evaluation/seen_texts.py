"""Overlap of a part with training: captions left out, texts also in train, and figures without those texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from halspan.core.captions import Caption, Prediction
from halspan.core.text.known_texts import KnownTexts
from halspan.data.split.parts import Taken, describe_left_out
from halspan.metrics.bootstrap import intervals
from halspan.metrics.summary import summarize

ENTRY = "without_train_texts"
_MAIN = ("sentence.auroc.macro", "sentence.auroc.pooled", "span.char.f1", "span.typed_char_f1")
_NOT_KNOWN = "the run's split.json does not list the texts that trained the detector; train it again"
_COUNTS = ("captions", "sentences", "incorrect", "unknown")


def judge_beside_train(
    metrics: Mapping[str, Any],
    parts: Mapping[str, Sequence[Prediction]],
    *,
    taken: Taken,
    image_of: Callable[[Caption], str],
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Add to the figures of each part how much of it training took.

    Args:
        metrics: Results of `judge_part`, by part.
        parts: Predictions of all captions of each part.
        taken: Texts of train, and captions that are in no part.
        image_of: Function that returns a key for the image of a caption.
        seed: Seed of the bootstrap.

    Returns:
        The metrics, each part with `n.left_out`, `n.captions_in_train`, `n.sentences_in_train` and
        `without_train_texts`; and by dotted path, the reason for a null, or an explanation of a count.
    """
    completed: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for part, items in parts.items():
        counts = {"left_out": sum(each.n for each in taken.left_out if each.part == part)}
        n_kept = metrics[part]["n"].get("sampled_from", len(items))
        if said := describe_left_out(part, n_kept, taken.left_out):
            reasons[f"{part}.n.left_out"] = said
        found, missing = None, dict[str, str]()
        if taken.texts is None:
            reasons[f"{part}.{ENTRY}"] = (
                "the run's split.json does not list the texts that trained the detector; train it again"
            )
        else:
            counts |= {f"{name}_in_train": n for name, n in taken.texts.count(item.caption for item in items).items()}
            images = [image_of(item.caption) for item in items]
            found, missing = judge_without_texts(metrics[part], items, taken.texts, images=images, seed=seed)
        reasons |= {f"{part}.{ENTRY}.{path}": reason for path, reason in missing.items()}
        completed[part] = {**metrics[part], "n": metrics[part]["n"] | counts, ENTRY: found}
    return completed | {"split": {"left_out": [each.to_record() for each in taken.left_out]}}, reasons


def judge_without_texts(
    figures: Mapping[str, Any],
    predictions: Sequence[Prediction],
    texts: KnownTexts,
    *,
    images: Sequence[str],
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute the main figures of a part without the sentences whose texts are known.

    Args:
        figures: Result of `judge_part`, which is kept if no text is known.
        predictions: Predictions of all captions of the part.
        texts: Texts that the detector was trained on.
        images: Key of the image of each caption.
        seed: Seed of the bootstrap.

    Returns:
        Counts of what is left, figures and intervals; and by dotted path, the reason for a null.
    """
    known = [texts.find_sentences(item.caption) for item in predictions]
    found = _pick_main(figures)
    if not any(map(any, known)) and len(found["ci95"]) == len(_MAIN):  # where a figure is null, its reason is needed
        return found, {}
    left = [each for each in zip(predictions, known, images, strict=True) if not all(each[1])]
    kept = [_without_labels(item, marks) for item, marks, _ in left]
    summary, missing = summarize(kept)
    ranges, without = intervals(kept, images=[image for *_, image in left], seed=seed)
    n_known = sum(sum(marks) for _, marks, _ in left)
    found = _pick_main(summary | {"ci95": {path: list(limits) for path, limits in ranges.items()}})
    found["n"] |= {name: found["n"][name] - n_known for name in ("sentences", "unknown")}
    if not kept:
        return found, dict.fromkeys(_MAIN, "every sentence occurs in train")
    reasons = missing | {f"ci95.{path}": reason for path, reason in without.items()}
    return found, {path: reason for path, reason in reasons.items() if path.removeprefix("ci95.") in _MAIN}


def _without_labels(prediction: Prediction, known: Sequence[bool]) -> Prediction:
    """Label known sentences unknown, so that every figure leaves out their characters."""
    sentences = tuple(
        replace(sentence, label="unknown") if is_known else sentence
        for sentence, is_known in zip(prediction.caption.sentences, known, strict=True)
    )
    return replace(prediction, caption=replace(prediction.caption, sentences=sentences))


def _pick_main(figures: Mapping[str, Any]) -> dict[str, Any]:
    auroc, span = figures["sentence"]["auroc"], figures["span"]
    return {
        "n": {name: figures["n"][name] for name in _COUNTS},
        "sentence": {"auroc": {"macro": auroc["macro"], "pooled": auroc["pooled"]}},
        "span": {"char": {"f1": span["char"]["f1"]}, "typed_char_f1": span["typed_char_f1"]},
        "ci95": {path: limits for path, limits in figures["ci95"].items() if path in _MAIN},
    }
