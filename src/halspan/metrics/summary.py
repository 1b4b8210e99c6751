"""All figures of one part of a split, in the shape of `metrics.json`."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from halspan.core.captions import Prediction
from halspan.metrics.judged import judged_sentences
from halspan.metrics.sentence import (
    accuracy,
    auroc,
    average_precision,
    brier,
    ece,
    f1,
    macro,
    recall_at_fpr,
)
from halspan.metrics.slices import slices
from halspan.metrics.span import Counts, has_no_span
from halspan.metrics.span_counts import SpanCounts, count_spans

_NO_SENTENCES = "no sentence is both labeled and scored"
_ONE_CLASS = "one class only"
_NONE_INCORRECT = "no sentence is incorrect"
_NO_GOLD = "no gold spans"
_NO_TYPED_GOLD = "no gold span has a type"
_NOTHING_PREDICTED = "nothing is predicted"


@dataclass(frozen=True, slots=True)
class _Missing:
    """A figure that cannot be computed."""

    reason: str


def summarize(predictions: Sequence[Prediction], *, threshold: float = 0.5) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute every figure of one part.

    Args:
        predictions: Predictions of all captions of the part.
        threshold: Lowest p_incorrect at which a sentence counts as called incorrect.

    Returns:
        The figures as `metrics.json` nests them, None where one cannot be computed; and the reason for each None, by
        its dotted path (`sentence.auroc.by_generator.sd`). The counts of a slice explain why it lacks a figure.
    """
    figures = {
        "n": _count(predictions),
        "sentence": _sentence_figures(predictions, threshold),
        "span": _span_figures([count_spans(prediction) for prediction in predictions]),
    }
    reasons: dict[str, str] = {}
    return _take_reasons(figures, "", reasons) | {"slices": slices(predictions)}, reasons


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


def _sentence_figures(predictions: Sequence[Prediction], threshold: float) -> dict[str, Any]:
    judged = judged_sentences(predictions)
    p, rank, incorrect = judged.p_incorrect, judged.rank, judged.incorrect
    one_class = _ONE_CLASS if len(p) else _NO_SENTENCES
    by_generator = {}
    for name in sorted({prediction.caption.generator for prediction in predictions}):
        own = judged.generator == name
        by_generator[name] = _figure(auroc(rank[own], incorrect[own]), _ONE_CLASS if own.any() else _NO_SENTENCES)
    over_generators = macro(value for value in by_generator.values() if isinstance(value, float))
    return {
        "auroc": {
            "macro": _figure(over_generators, "no generator has sentences of both classes"),
            "pooled": _figure(auroc(rank, incorrect), one_class),
            "by_generator": by_generator,
        },
        "auprc": _figure(average_precision(rank, incorrect), one_class),
        "recall_at_10fpr": _figure(recall_at_fpr(rank, incorrect, fpr=0.10), one_class),
        "brier": _figure(brier(p, incorrect), _NO_SENTENCES),
        "ece": _figure(ece(p, incorrect), _NO_SENTENCES),
        "threshold": threshold,
        "accuracy": _figure(accuracy(p, incorrect, threshold=threshold), _NO_SENTENCES),
        "f1": _figure(f1(p, incorrect, threshold=threshold), _NONE_INCORRECT if len(p) else _NO_SENTENCES),
    }


def _span_figures(captions: Sequence[SpanCounts]) -> dict[str, Any]:
    def total(counts_of: Callable[[SpanCounts], Counts]) -> Counts:
        return sum(map(counts_of, captions), Counts())

    typed = total(lambda each: each.typed)
    with_gold = [each.iou for each in captions if each.char.gold]
    types = sorted({name for each in captions for name in each.found_by_type})
    return {
        "char": _rates(total(lambda each: each.char)),
        "typed_char_f1": _figure(typed.f1, _NO_TYPED_GOLD if with_gold else _NO_GOLD),
        "iou": float(np.mean([each.iou for each in captions])) if with_gold else _Missing(_NO_GOLD),
        "iou_where_span": float(np.mean(with_gold)) if with_gold else _Missing(_NO_GOLD),
        "strict": _rates(total(lambda each: each.strict)),
        "exact": _rates(total(lambda each: each.exact)),
        "partial": _rates(total(lambda each: each.partial)),
        "type": _rates(total(lambda each: each.type)),
        "by_type": {name: _type_figures(captions, name) for name in types},
    }


def _type_figures(captions: Iterable[SpanCounts], name: str) -> dict[str, Any]:
    found, typed = Counts(), Counts()
    for each in captions:
        found += each.found_by_type.get(name, Counts())
        typed += each.typed_by_type.get(name, Counts())
    return {"char_recall": found.recall, "typed": _rates(typed)}


def _rates(counts: Counts) -> dict[str, Any]:
    """Return precision, recall and F1; without gold spans, all three are undefined."""
    precision = counts.precision if counts.gold else None
    return {
        "precision": _figure(precision, _NOTHING_PREDICTED if counts.gold else _NO_GOLD),
        "recall": _figure(counts.recall, _NO_GOLD),
        "f1": _figure(counts.f1, _NO_GOLD),
    }


def _figure(value: float | None, reason: str) -> float | _Missing:
    return _Missing(reason) if value is None else value


def _take_reasons(figures: Mapping[str, Any], prefix: str, reasons: dict[str, str]) -> dict[str, Any]:
    """Replace missing figures by None, and collect their reasons by path."""
    taken: dict[str, Any] = {}
    for name, value in figures.items():
        path = prefix + name
        if isinstance(value, _Missing):
            reasons[path] = value.reason
            taken[name] = None
        else:
            taken[name] = _take_reasons(value, f"{path}.", reasons) if isinstance(value, Mapping) else value
    return taken
