"""What training took from a part: captions left out, texts that occur in train, and the figures without those texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from halspan.core.captions import Caption, Prediction
from halspan.core.texts import KnownTexts
from halspan.data.split import Taken, describe_left_out
from halspan.metrics.bootstrap import intervals
from halspan.metrics.summary import summarize

ENTRY = "without_train_texts"
_MAIN = ("sentence.auroc.macro", "sentence.auroc.pooled", "span.char.f1", "span.typed_char_f1")
_NOT_KNOWN = "the run's split.json does not say which texts trained the detector; train it again"
_COUNTS = ("captions", "sentences", "incorrect", "unknown")


def judge_beside_train(
    metrics: Mapping[str, Any],
    parts: Mapping[str, Sequence[Prediction]],
    *,
    taken: Taken,
    image_of: Callable[[Caption], str],
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Complete the figures of each part by what training took from it.

    Args:
        metrics: what `judge_part` gave, by part.
        parts: predictions of all captions of each part.
        taken: texts of train, and captions that are in no part.
        image_of: tells the images of captions apart.
        seed: of the bootstrap.

    Returns:
        The metrics, each part with `n.left_out`, `n.captions_in_train`, `n.sentences_in_train` and
        `without_train_texts`; and by dotted path why one is null, or what a count says.
    """
    completed: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for part, items in parts.items():
        counts = {"left_out": sum(each.n for each in taken.left_out if each.part == part)}
        if said := describe_left_out(part, len(items), taken.left_out):
            reasons[f"{part}.n.left_out"] = said
        found, missing = None, dict[str, str]()
        if taken.texts is None:
            reasons[f"{part}.{ENTRY}"] = (
                "the run's split.json does not say which texts trained the detector; train it again"
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
        figures: what `judge_part` gave, which stand where no text is known.
        predictions: of all captions of the part.
        texts: that a detector was trained on.
        images: what tells the images of the captions apart.
        seed: of the bootstrap.

    Returns:
        Counts of what is left, figures and intervals; and by dotted path why one is null.
    """
    known = [texts.find_sentences(item.caption) for item in predictions]
    if not any(map(any, known)):
        return _pick_main(figures), {}
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
    """Call known sentences unknown ones, which every figure leaves out with their characters."""
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
