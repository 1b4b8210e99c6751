import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nervaluate import Evaluator

from halspan.core.captions import Caption, PredictedSpan, Sentence, Span
from halspan.metrics.matching import (
    count_exact,
    count_partial,
    count_strict,
    count_type,
    judged_ranges,
)
from halspan.metrics.span import Counts, judged_characters

CRITERIA = [count_strict, count_exact, count_partial, count_type]


def test_spans_shrink_to_their_judged_characters_and_vanish_without_any():
    sentences = (
        Sentence(0, 10, "incorrect"),  # with a span
        Sentence(10, 20, "incorrect"),  # without
        Sentence(20, 30, "unknown"),
        Sentence(30, 35, "correct"),
        Sentence(35, 40, None),
    )
    caption = Caption("c/1", "1.png", "c", "image_to_text", "x" * 40, sentences, (Span(0, 5),))
    judged = judged_characters(caption)
    found = [(5, 15, "Object"), (12, 18, "Object"), (25, 32, "Text"), (4, 40, "Number")]
    spans = [PredictedSpan(*each, 0.5) for each in found]
    assert judged_ranges(spans, judged) == [(5, 10, "Object"), (30, 32, "Text"), (4, 35, "Number")]


def test_strict_needs_start_end_and_type_one_to_one():
    gold = [(0, 4, "Object"), (0, 4, "Object"), (5, 9, "Number"), (10, 12, None), (14, 18, "Text")]
    predicted = [(0, 4, "Object"), (5, 9, "Text"), (10, 12, None), (14, 17, "Text")]
    assert count_strict(gold, predicted) == Counts(shared=2, predicted=4, gold=5)


@pytest.mark.parametrize(
    ("gold", "predicted", "credit"),
    [
        ([(0, 4)], [(0, 4)], 1),
        ([(0, 4)], [(2, 6)], 0.5),
        ([(0, 4)], [(4, 8)], 0),  # adjacent: ends are exclusive
        ([(0, 10)], [(2, 4), (6, 8)], 0.5),  # one to one: the second is extra
        ([(2, 4), (6, 8)], [(0, 10)], 0.5),
        ([(0, 4), (2, 6)], [(2, 6), (3, 4)], 1.5),  # the exact pair first
        ([(0, 4), (0, 4)], [(0, 4)], 1),
        ([(0, 3), (2, 9)], [(1, 8), (2, 4)], 1.0),  # (1, 8) leaves (0, 3) to the one that needs it
        ([], [(0, 4)], 0),
        ([(0, 4)], [], 0),
    ],
)
def test_partial_credits_1_for_the_same_ends_and_a_half_for_overlap(gold, predicted, credit):
    typed_gold, typed = [(*pair, "Object") for pair in gold], [(*pair, "Number") for pair in predicted]
    assert count_partial(typed_gold, typed) == Counts(credit, len(predicted), len(gold))


ranges = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10)).filter(lambda pair: pair[0] < pair[1]), max_size=4)


def best_credit(gold: list, predicted: list) -> float:
    """Try every way to pair the spans."""
    gold = [*gold, *[None] * len(predicted)]

    def credit(one, other) -> float:
        if other is None or one[0] >= other[1] or other[0] >= one[1]:
            return 0
        return 1 if one == other else 0.5

    ways = itertools.permutations(gold, len(predicted))
    return max(sum(map(credit, predicted, way)) for way in set(ways))


@given(ranges, ranges)
def test_partial_credit_is_the_highest_that_any_pairing_gives(gold, predicted):
    typed_gold, typed = [(*pair, None) for pair in gold], [(*pair, None) for pair in predicted]
    assert count_partial(typed_gold, typed).shared == best_credit(gold, predicted)


def test_exact_needs_start_and_end_one_to_one_whatever_the_types():
    gold = [(0, 4, "Object"), (0, 4, "Object"), (5, 9, "Number"), (14, 18, "Text")]
    predicted = [(0, 4, "Object"), (5, 9, "Text"), (5, 9, "Number"), (14, 17, "Text")]
    assert count_exact(gold, predicted) == Counts(shared=2, predicted=4, gold=4)


@pytest.mark.parametrize(
    ("gold", "predicted", "shared"),
    [
        ([(0, 4, "A")], [(0, 4, "A")], 1),
        ([(0, 4, "A")], [(3, 9, "A")], 1),  # some overlap is enough
        ([(0, 4, "A")], [(0, 4, "B")], 0),
        ([(0, 4, "A")], [(4, 8, "A")], 0),  # adjacent: ends are exclusive
        ([(0, 10, "A")], [(2, 4, "A"), (6, 8, "A")], 1),  # one to one: the second is extra
        ([(0, 10, "A"), (2, 4, "A")], [(3, 5, "A"), (8, 9, "A")], 2),  # nested: (8, 9) needs the outer one
        ([(0, 4, "A"), (0, 4, "B")], [(0, 4, "B"), (1, 3, "A")], 2),  # the same place, of two types
        ([(0, 4, "A"), (0, 4, "A")], [(0, 4, "A")], 1),  # duplicates
        ([(0, 10, "A")], [(0, 4, "B"), (5, 9, "A")], 1),  # (0, 4) does not use the annotated one up
        ([(0, 4, None)], [(0, 4, None)], 1),
        ([], [(0, 4, "A")], 0),
        ([(0, 4, "A")], [], 0),
        ([], [], 0),
    ],
)
def test_type_needs_some_overlap_and_the_same_type_one_to_one(gold, predicted, shared):
    assert count_type(gold, predicted) == Counts(shared, len(predicted), len(gold))


spans = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 10), st.sampled_from(["A", "B"])).filter(
        lambda each: each[0] < each[1]
    ),
    max_size=5,
)


@given(spans, spans)
def test_type_matches_as_many_spans_as_any_pairing(gold, predicted):
    padded = [*gold, *[None] * len(predicted)]
    best = max(
        sum(
            other is not None and one[2] == other[2] and one[0] < other[1] and other[0] < one[1]
            for one, other in zip(predicted, way, strict=True)
        )
        for way in set(itertools.permutations(padded, len(predicted)))
    )
    assert count_type(gold, predicted).shared == best


@given(spans, spans, st.randoms())
def test_no_order_of_the_spans_changes_a_count(gold, predicted, source):
    counts = [count(gold, predicted) for count in CRITERIA]
    source.shuffle(gold)
    source.shuffle(predicted)
    assert [count(gold, predicted) for count in CRITERIA] == counts


@given(spans, spans)
def test_a_looser_criterion_matches_at_least_as_many_spans(gold, predicted):
    strict, exact, partial, kind = (count(gold, predicted).shared for count in CRITERIA)
    assert strict <= exact <= partial <= min(len(gold), len(predicted))
    assert strict <= kind


def apart(source: random.Random) -> list[tuple]:
    """Draw spans that do not touch each other."""
    found, at = [], 0
    while at < 60:
        start = at + source.randint(1, 8)
        at = start + source.randint(1, 11)
        found.append((start, at, source.choice(["A", "B"])))
    return found


def nervaluate(gold: list[tuple], predicted: list[tuple]) -> dict[str, Counts]:
    """Ask nervaluate, whose ends are inclusive."""
    true, pred = (
        [[{"start": start, "end": end - 1, "label": kind} for start, end, kind in each]] for each in (gold, predicted)
    )
    results = Evaluator(true=true, pred=pred, tags=["A", "B"], loader="dict").evaluate()["overall"]
    return {
        name: Counts(result.correct + result.partial / 2, result.actual, result.possible)
        for name, result in results.items()
    }


def test_counts_are_those_of_nervaluate_on_spans_that_are_apart():
    source = random.Random(0)
    for _ in range(300):
        gold, predicted = apart(source), apart(source)
        expected = nervaluate(gold, predicted)
        assert count_strict(gold, predicted) == expected["strict"]
        assert count_exact(gold, predicted) == expected["exact"]
        assert count_partial(gold, predicted) == expected["partial"]


def test_type_is_ent_type_of_nervaluate_where_no_span_overlaps_two():
    # Where one does, nervaluate takes a pair without looking at what the others need, or one of different types.
    source = random.Random(0)
    n_compared = 0
    for _ in range(600):
        gold, predicted = apart(source), apart(source)
        expected = nervaluate(gold, predicted)["ent_type"]
        overlaps = np.array([[one[0] < other[1] and other[0] < one[1] for other in gold] for one in predicted])
        if max(overlaps.sum(axis=0).max(), overlaps.sum(axis=1).max()) <= 1:
            assert count_type(gold, predicted) == expected
            n_compared += 1
        assert count_type(gold, predicted).shared >= expected.shared
    assert n_compared >= 30
