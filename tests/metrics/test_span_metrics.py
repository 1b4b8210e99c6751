import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.captions import Caption, PredictedSpan, Sentence, Span
from halspan.metrics.span import (
    Counts,
    count_by_type,
    count_characters,
    count_partial,
    count_strict,
    count_typed_characters,
    iou,
    judged_characters,
    judged_ranges,
)

N = 40


def make_caption(*spans: Span, sentences: tuple[Sentence, ...] = (Sentence(0, N, "incorrect"),)) -> Caption:
    return Caption("c/1", "1.png", "c", "image_to_text", "x" * N, sentences, spans)


def predict(*ranges: tuple) -> tuple[PredictedSpan, ...]:
    return tuple(PredictedSpan(*each[:2], each[2] if len(each) > 2 else "Object", 0.5) for each in ranges)


def test_characters_are_counted_as_sets():
    # Gold [0, 10); predicted [5, 8), [5, 12) and [5, 12) again: [5, 12), of which 5 are gold.
    counts = count_characters([(make_caption(Span(0, 10)), predict((5, 8), (5, 12), (5, 12)))])
    assert counts == Counts(shared=5, predicted=7, gold=10)
    assert (counts.precision, counts.recall, counts.f1) == (5 / 7, 1 / 2, 10 / 17)


def test_recall_stays_at_most_1_when_predictions_overlap():
    assert count_characters([(make_caption(Span(0, 4)), predict((0, 4), (1, 4), (0, 2)))]).recall == 1


def test_adjacent_spans_count_as_their_union():
    assert count_characters([(make_caption(Span(0, 4), Span(4, 8)), predict((0, 8)))]) == Counts(8, 8, 8)


def test_captions_add_up_before_dividing():
    pairs = [(make_caption(Span(0, 10)), predict((0, 10))), (make_caption(Span(0, 2)), predict((20, 40)))]
    assert count_characters(pairs) == Counts(10, 30, 12)


def test_a_caption_without_any_span_adds_nothing():
    assert count_characters([(make_caption(), ())]) == Counts()


def test_nothing_predicted_has_no_precision_but_f1_0():
    counts = count_characters([(make_caption(Span(0, 4)), ())])
    assert (counts.precision, counts.recall, counts.f1) == (None, 0, 0)


def test_nothing_annotated_has_neither_recall_nor_f1():
    counts = count_characters([(make_caption(sentences=(Sentence(0, N, "correct"),)), predict((0, 4)))])
    assert (counts.precision, counts.recall, counts.f1) == (0, None, None)


KINDS = (
    Sentence(0, 10, "incorrect"),  # with a span
    Sentence(10, 20, "incorrect"),  # without
    Sentence(20, 30, "unknown"),
    Sentence(30, 35, "correct"),
    Sentence(35, 40, None),
)


def test_unknown_unlabelled_and_unlocalised_sentences_are_left_out_on_both_sides():
    caption = make_caption(Span(0, 5), Span(22, 24), sentences=KINDS)
    assert np.flatnonzero(judged_characters(caption)).tolist() == [*range(10), *range(30, 35)]
    everything = predict((0, 40))
    assert count_characters([(caption, everything)]) == Counts(shared=5, predicted=15, gold=5)
    assert iou(caption, everything) == 5 / 15


def test_characters_between_the_sentences_are_judged():
    caption = make_caption(sentences=(Sentence(0, 10, "correct"), Sentence(12, 40, "unknown")))
    assert np.flatnonzero(judged_characters(caption)).tolist() == list(range(12))


def test_spans_shrink_to_their_judged_characters_and_vanish_without_any():
    judged = judged_characters(make_caption(Span(0, 5), sentences=KINDS))
    spans = predict((5, 15, "Object"), (12, 18, "Object"), (25, 32, "Text"), (4, 40, "Number"))
    assert judged_ranges(spans, judged) == [(5, 10, "Object"), (30, 32, "Text"), (4, 35, "Number")]


def test_iou_is_1_for_a_caption_without_spans_on_either_side():
    assert iou(make_caption(), ()) == 1
    assert iou(make_caption(Span(0, 4)), ()) == 0
    assert iou(make_caption(Span(0, 4), Span(2, 6)), predict((4, 8))) == 2 / 8


def test_typed_characters_are_pairs_of_character_and_type():
    # [0, 4) Object is met; [4, 8) is called Number, which is wrong once on each side; [20, 22) is extra.
    caption = make_caption(Span(0, 8, "Object"))
    predicted = predict((0, 4, "Object"), (4, 8, "Number"), (20, 22, "Object"))
    assert count_typed_characters(caption, predicted) == Counts(shared=4, predicted=10, gold=8)


def test_a_character_of_two_types_counts_for_both():
    caption = make_caption(Span(0, 4, "Object"), Span(2, 6, "Number"))
    assert count_typed_characters(caption, predict((0, 6, "Number"))) == Counts(shared=4, predicted=6, gold=8)


def test_gold_characters_without_a_type_leave_both_sides_of_the_typed_figure():
    caption = make_caption(Span(0, 4), Span(3, 6, "Object"))
    # [0, 3) has no type and is left out; [3, 4) has one, from the second span.
    assert count_typed_characters(caption, predict((0, 6, "Object"))) == Counts(shared=3, predicted=3, gold=3)


def test_a_predicted_span_without_a_type_matches_no_type():
    assert count_typed_characters(make_caption(Span(0, 4, "Object")), predict((0, 4, None))) == Counts(0, 4, 4)


def test_by_type_recall_asks_only_whether_the_characters_were_found():
    caption = make_caption(Span(0, 4, "Object"), Span(10, 20, "Number"), Span(20, 25))
    counts = count_by_type(caption, predict((0, 2, "Text"), (10, 22, "Number")))
    assert {name: each.recall for name, each in counts.items()} == {"Number": 1, "Object": 1 / 2}


def test_a_type_none_of_whose_characters_are_judged_is_not_listed():
    caption = make_caption(Span(0, 4, "Object"), Span(22, 24, "Text"), sentences=KINDS)
    assert list(count_by_type(caption, ())) == ["Object"]


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


typed_spans = st.lists(
    st.tuples(st.integers(0, N - 1), st.integers(1, N), st.sampled_from(["Object", "Number", None])).filter(
        lambda span: span[0] < span[1]
    ),
    max_size=5,
)


@given(typed_spans, typed_spans, st.randoms())
def test_counts_are_those_of_plain_sets_in_whatever_order_the_spans_come(gold, predicted, random):
    sentences = KINDS
    caption = make_caption(*[Span(*each) for each in gold], sentences=sentences)
    spans = predict(*predicted)
    touched = {at for start, end, _ in gold for at in range(start, end)}
    left_out = {
        at
        for sentence in sentences
        for at in range(sentence.start, sentence.end)
        if sentence.label in ("unknown", None)
        or (sentence.label == "incorrect" and not touched & set(range(sentence.start, sentence.end)))
    }
    c_gold, c_found = touched - left_out, {at for a, b, _ in predicted for at in range(a, b)} - left_out
    assert count_characters([(caption, spans)]) == Counts(len(c_gold & c_found), len(c_found), len(c_gold))
    assert iou(caption, spans) == (len(c_gold & c_found) / len(c_gold | c_found) if c_gold | c_found else 1)

    gold_pairs = {(at, kind) for a, b, kind in gold if kind for at in range(a, b)}
    left_out |= c_gold - {at for at, _ in gold_pairs}
    found_pairs = {(at, kind) for a, b, kind in predicted for at in range(a, b) if at not in left_out}
    gold_pairs = {pair for pair in gold_pairs if pair[0] not in left_out}
    typed = Counts(len(gold_pairs & found_pairs), len(found_pairs), len(gold_pairs))
    assert count_typed_characters(caption, spans) == typed

    random.shuffle(gold)
    random.shuffle(predicted)
    shuffled = make_caption(*[Span(*each) for each in gold], sentences=sentences)
    assert count_typed_characters(shuffled, predict(*predicted)) == typed
    assert count_by_type(shuffled, predict(*predicted)) == count_by_type(caption, spans)
