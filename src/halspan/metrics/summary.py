"""All figures of one part of a split, in the shape of `metrics.json`."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from halspan.core.captions import Prediction
from halspan.metrics.sentence import auroc, average_precision, brier, ece
from halspan.metrics.span import (
    Counts,
    count_by_type,
    count_characters,
    count_partial,
    count_strict,
    count_typed_characters,
    has_no_span,
    iou,
    judged_characters,
    judged_ranges,
)

_NO_SENTENCES = "no sentence is both labelled and scored"
_ONE_CLASS = "one class only"
_NO_GOLD = "no gold spans"
_NO_TYPED_GOLD = "no gold span has a type"
_NOTHING_PREDICTED = "nothing is predicted"


@dataclass(frozen=True, slots=True)
class JudgedSentences:
    """The sentences that are labelled correct or incorrect, and scored.

    Attributes:
        p_incorrect: what the detector says.
        incorrect: what the label says.
        generator: of the sentence's caption.
    """

    p_incorrect: Float[ndarray, "sentence"]
    incorrect: Bool[ndarray, "sentence"]
    generator: ndarray


@dataclass(frozen=True, slots=True)
class _Missing:
    """A figure that cannot be computed."""

    reason: str


def judged_sentences(predictions: Sequence[Prediction]) -> JudgedSentences:
    """Collect the sentences that sentence figures count."""
    rows = [
        (score.p_incorrect, sentence.label == "incorrect", prediction.caption.generator)
        for prediction in predictions
        for sentence, score in zip(prediction.caption.sentences, prediction.sentences, strict=True)
        if score.p_incorrect is not None and sentence.label in ("correct", "incorrect")
    ]
    return JudgedSentences(
        np.array([row[0] for row in rows], dtype=np.float64),
        np.array([row[1] for row in rows], dtype=np.bool_),
        np.array([row[2] for row in rows], dtype=np.str_),
    )


def summarize(predictions: Sequence[Prediction]) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute every figure of one part.

    Args:
        predictions: of all captions of the part.

    Returns:
        The figures, as `metrics.json` nests them, None where one cannot be computed; and for each of these, by its
        dotted path (`sentence.auroc.by_generator.sd`), the reason.
    """
    figures = {
        "n": _count(predictions),
        "sentence": _sentence_figures(predictions),
        "span": _span_figures(predictions),
    }
    reasons: dict[str, str] = {}
    return _take_reasons(figures, "", reasons), reasons


def _count(predictions: Sequence[Prediction]) -> dict[str, int]:
    captions = [prediction.caption for prediction in predictions]
    labels = Counter(sentence.label for caption in captions for sentence in caption.sentences)
    return {
        "captions": len(captions),
        "sentences": labels.total(),
        "incorrect": labels["incorrect"],
        "unknown": labels["unknown"] + labels[None],
        "unscored": sum(score.p_incorrect is None for prediction in predictions for score in prediction.sentences),
        "no_span": sum(has_no_span(caption, sentence) for caption in captions for sentence in caption.sentences),
        "spans": sum(len(caption.spans) for caption in captions),
        "images": len({caption.image for caption in captions}),
    }


def _sentence_figures(predictions: Sequence[Prediction]) -> dict[str, Any]:
    judged = judged_sentences(predictions)
    p, incorrect = judged.p_incorrect, judged.incorrect
    one_class = _ONE_CLASS if len(p) else _NO_SENTENCES
    by_generator = {}
    for name in sorted({prediction.caption.generator for prediction in predictions}):
        own = judged.generator == name
        by_generator[name] = _figure(auroc(p[own], incorrect[own]), _ONE_CLASS if own.any() else _NO_SENTENCES)
    known = [value for value in by_generator.values() if isinstance(value, float)]
    return {
        "auroc": {
            "macro": float(np.mean(known)) if known else _Missing("no generator has sentences of both classes"),
            "pooled": _figure(auroc(p, incorrect), one_class),
            "by_generator": by_generator,
        },
        "auprc": _figure(average_precision(p, incorrect), one_class),
        "brier": _figure(brier(p, incorrect), _NO_SENTENCES),
        "ece": _figure(ece(p, incorrect), _NO_SENTENCES),
    }


def _span_figures(predictions: Sequence[Prediction]) -> dict[str, Any]:
    pairs = [(prediction.caption, prediction.spans) for prediction in predictions]
    characters = count_characters(pairs)
    typed, strict, partial = Counts(), Counts(), Counts()
    by_type: dict[str, Counts] = defaultdict(Counts)
    for caption, spans in pairs:
        if not spans and not caption.spans:
            continue
        judged = judged_characters(caption)
        gold, predicted = judged_ranges(caption.spans, judged), judged_ranges(spans, judged)
        strict += count_strict(gold, predicted)
        partial += count_partial(gold, predicted)
        typed += count_typed_characters(caption, spans)
        for name, counts in count_by_type(caption, spans).items():
            by_type[name] += counts
    has_gold = characters.gold > 0
    precision = characters.precision if has_gold else None
    return {
        "char": {
            "precision": _figure(precision, _NOTHING_PREDICTED if has_gold else _NO_GOLD),
            "recall": _figure(characters.recall, _NO_GOLD),
            "f1": _figure(characters.f1, _NO_GOLD),
        },
        "typed_char_f1": _figure(typed.f1, _NO_TYPED_GOLD if has_gold else _NO_GOLD),
        "iou": float(np.mean([iou(*pair) for pair in pairs])) if has_gold else _Missing(_NO_GOLD),
        "strict": {"f1": _figure(strict.f1, _NO_GOLD)},
        "partial": {"f1": _figure(partial.f1, _NO_GOLD)},
        "by_type": {name: {"char_recall": by_type[name].recall} for name in sorted(by_type)},
    }


def _figure(value: float | None, reason: str) -> float | _Missing:
    return _Missing(reason) if value is None else value


def _take_reasons(figures: Mapping[str, Any], prefix: str, reasons: dict[str, str]) -> dict[str, Any]:
    """Replace what is missing by None, and note the reason by its path."""
    taken: dict[str, Any] = {}
    for name, value in figures.items():
        path = prefix + name
        if isinstance(value, _Missing):
            reasons[path] = value.reason
            taken[name] = None
        else:
            taken[name] = _take_reasons(value, f"{path}.", reasons) if isinstance(value, Mapping) else value
    return taken
