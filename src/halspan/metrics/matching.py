"""One-to-one matches of predicted and annotated spans, by the four criteria of SemEval-2013 task 9.

No order of the spans changes a count: each criterion matches as many spans as any pairing of them can. Spans are
half-open, so adjacent ones do not overlap. Where neither the annotated nor the predicted spans overlap each other, the
counts are those of nervaluate, but for its `ent_type`: it pairs one predicted span after another, and lets one of
another type use up an annotated one, so it can match fewer.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from halspan.core.captions import PredictedSpan, Span
from halspan.metrics.span import Characters, Counts

TypedRange = tuple[int, int, str | None]
Range = tuple[int, int]


def judged_ranges(spans: Iterable[Span | PredictedSpan], judged: Characters) -> list[TypedRange]:
    """Shrink spans to their judged characters; a span without judged characters is dropped."""
    ranges = []
    for span in spans:
        positions = np.flatnonzero(judged[span.start : span.end])
        if len(positions):
            ranges.append((span.start + int(positions[0]), span.start + int(positions[-1]) + 1, span.type))
    return ranges


def count_strict(gold: Sequence[TypedRange], predicted: Sequence[TypedRange]) -> Counts:
    """Count spans of one caption that agree in start, end and type.

    >>> count_strict([(0, 4, "Object")], [(0, 4, "Number")])
    Counts(shared=0, predicted=1, gold=1)
    """
    return _with_totals((Counter(gold) & Counter(predicted)).total(), gold, predicted)


def count_exact(gold: Sequence[TypedRange], predicted: Sequence[TypedRange]) -> Counts:
    """Count spans of one caption that agree in start and end, ignoring types.

    >>> count_exact([(0, 4, "Object")], [(0, 4, "Number")])
    Counts(shared=1, predicted=1, gold=1)
    """
    return _with_totals((_untyped(gold) & _untyped(predicted)).total(), gold, predicted)


def count_type(gold: Sequence[TypedRange], predicted: Sequence[TypedRange]) -> Counts:
    """Count spans of one caption that overlap and agree in type.

    >>> count_type([(0, 4, "Object")], [(2, 6, "Object")])
    Counts(shared=1, predicted=1, gold=1)
    """
    shared = 0
    for name in {kind for _, _, kind in gold}:
        gold_of, predicted_of = ([span[:2] for span in spans if span[2] == name] for spans in (gold, predicted))
        shared += _count_overlapping(gold_of, predicted_of)
    return _with_totals(shared, gold, predicted)


def count_partial(gold: Sequence[TypedRange], predicted: Sequence[TypedRange]) -> Counts:
    """Count spans of one caption that agree in start and end, and half of those that overlap, ignoring types.

    >>> count_partial([(0, 4, "Object")], [(2, 6, "Object"), (8, 9, "Object")])
    Counts(shared=0.5, predicted=2, gold=1)
    """
    golds, predictions = _untyped(gold), _untyped(predicted)
    exact = golds & predictions
    overlapping = _count_overlapping((golds - exact).elements(), (predictions - exact).elements())
    return _with_totals(exact.total() + overlapping / 2, gold, predicted)


def _count_overlapping(gold: Iterable[Range], predicted: Iterable[Range]) -> int:
    """Return the largest number of disjoint pairs of overlapping ranges.

    Predicted ranges are taken in order of their ends, and each is paired with the overlapping range that ends first.
    This greedy choice is optimal: every range that overlaps the current one starts before its end, so also before the
    end of every later one. An annotated range that ends later can be paired with every later
    prediction that one with an earlier end can.
    """
    n_pairs = 0
    left = sorted(gold, key=_end_first)
    for start, end in sorted(predicted, key=_end_first):
        match = next((other for other in left if other[0] < end and start < other[1]), None)
        if match is not None:
            left.remove(match)
            n_pairs += 1
    return n_pairs


def _untyped(spans: Iterable[TypedRange]) -> Counter[Range]:
    return Counter((start, end) for start, end, _ in spans)


def _with_totals(shared: int | float, gold: Sequence[TypedRange], predicted: Sequence[TypedRange]) -> Counts:
    return Counts(shared, len(predicted), len(gold))


def _end_first(item: Range) -> Range:
    return item[1], item[0]
