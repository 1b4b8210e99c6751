import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.captions import Caption, PredictedSpan, Sentence, Span
from halspan.core.errors import DataError
from halspan.metrics.span import (
    Counts,
    count_by_type,
    count_characters,
    count_tokens,
    count_typed_characters,
    count_typed_characters_by_type,
    iou,
    judged_characters,
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


def test_unknown_unlabeled_and_unlocalized_sentences_are_left_out_on_both_sides():
    caption = make_caption(Span(0, 5), Span(22, 24), sentences=KINDS)
    assert np.flatnonzero(judged_characters(caption)).tolist() == [*range(10), *range(30, 35)]
    everything = predict((0, 40))
    assert count_characters([(caption, everything)]) == Counts(shared=5, predicted=15, gold=5)
    assert iou(caption, everything) == 5 / 15


def test_characters_between_the_sentences_are_judged():
    caption = make_caption(sentences=(Sentence(0, 10, "correct"), Sentence(12, 40, "unknown")))
    assert np.flatnonzero(judged_characters(caption)).tolist() == list(range(12))


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


def test_typed_characters_by_type_add_up_to_all_of_them():
    caption = make_caption(Span(0, 4, "Object"), Span(2, 6, "Number"), Span(10, 12))
    predicted = predict((0, 3, "Object"), (3, 6, "Number"), (10, 14, "Text"), (20, 21, None))
    counts = count_typed_characters_by_type(caption, predicted)
    # Object: [0, 3) of [0, 4). Number: [3, 6) of [2, 6). [10, 12) has no type and is left out, [12, 14) is extra.
    assert counts == {
        "Object": Counts(3, 3, 4),
        "Number": Counts(3, 3, 4),
        "Text": Counts(0, 2, 0),
        None: Counts(0, 1, 0),
    }
    assert count_typed_characters(caption, predicted) == Counts(6, 9, 8)


def test_nested_and_duplicate_annotated_spans_count_a_character_once():
    caption = make_caption(Span(0, 10, "Object"), Span(2, 6, "Object"), Span(0, 10, "Object"))
    assert count_characters([(caption, predict((0, 8)))]) == Counts(8, 8, 10)
    assert count_typed_characters(caption, predict((0, 8))) == Counts(8, 8, 10)


@pytest.mark.parametrize("make", [Span, lambda start, end: PredictedSpan(start, end, None, 0.5)])
def test_a_span_without_characters_cannot_be_made(make):
    with pytest.raises(DataError, match="leaves no character"):
        make(4, 4)


def test_tokens_count_where_it_is_known_whether_they_are_hallucinated():
    tags = [np.array(each, dtype=np.bool_) for each in ([1, 1, 0, 0, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 0])]
    gold, predicted, known = tags
    assert count_tokens(gold=gold, predicted=predicted, known=known) == Counts(shared=1, predicted=2, gold=2)


typed_spans = st.lists(
    st.tuples(st.integers(0, N - 1), st.integers(1, N), st.sampled_from(["Object", "Number", None])).filter(
        lambda span: span[0] < span[1]
    ),
    max_size=5,
)


def mark(characters: set[int]) -> np.ndarray:
    return np.isin(np.arange(N), list(characters))


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
    assert count_tokens(gold=mark(c_gold), predicted=mark(c_found), known=np.ones(N, dtype=np.bool_)) == Counts(
        len(c_gold & c_found), len(c_found), len(c_gold)
    )

    random.shuffle(gold)
    random.shuffle(predicted)
    shuffled = make_caption(*[Span(*each) for each in gold], sentences=sentences)
    assert count_typed_characters(shuffled, predict(*predicted)) == typed
    assert count_by_type(shuffled, predict(*predicted)) == count_by_type(caption, spans)
