import numpy as np
import pytest

from halspan.core.captions import Caption, Sentence, Span, Votes
from halspan.core.errors import DataError
from halspan.core.targets import NO_TYPE, build_targets

TEXT = "A red cat. It runs. He? Two dogs."
#       0123456789012345678901234567890123
TOKENS = [
    (0, 1),
    (1, 5),
    (5, 9),
    (9, 10),
    (10, 13),
    (13, 18),
    (18, 19),
    (19, 22),
    (22, 23),
    (23, 27),
    (27, 32),
    (32, 33),
]
WORDS = ["A", " red", " cat", ".", " It", " runs", ".", " He", "?", " Two", " dogs", "."]
OFFSETS = np.array(TOKENS)
FIRST, SECOND, THIRD, FOURTH = (0, 10), (11, 19), (20, 23), (24, 33)
TAXONOMY = ("Attribute", "Object", "Number")


def caption(*sentences: Sentence, spans: tuple[Span, ...] = ()) -> Caption:
    return Caption("c/1", "1.png", "c", "image_to_text", TEXT, sentences, spans)


ALL_KINDS = caption(
    Sentence(*FIRST, "incorrect", ("Attribute", "Object"), Votes(correct=1, incorrect=3)),
    Sentence(*SECOND, "correct"),
    Sentence(*THIRD, "unknown"),
    Sentence(*FOURTH, "incorrect", ("Number", "Attribute")),
    spans=(Span(2, 5, "Attribute"), Span(6, 9)),
)


def test_the_offsets_are_those_of_the_words():
    assert [TEXT[start:end] for start, end in TOKENS] == WORDS


def test_hallucinated_tokens_are_positive_and_carry_the_type_of_their_span():
    targets = build_targets(ALL_KINDS, OFFSETS, TAXONOMY)
    assert targets.token.tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert targets.token_type.tolist() == [NO_TYPE, 0, *[NO_TYPE] * 10]


@pytest.mark.parametrize(
    ("spans", "types"),
    [
        ([Span(2, 9), Span(2, 5, "Attribute")], [0, NO_TYPE]),  # the cat has no type
        ([Span(2, 5, "Attribute"), Span(2, 9)], [0, NO_TYPE]),
        ([Span(2, 9), Span(4, 5, "Attribute")], [0, NO_TYPE]),  # less of the token than the span without a type
        ([Span(2, 9, "Object"), Span(4, 9, "Attribute")], [1, 0]),  # more of "red", as much of "cat"
        ([Span(2, 9, "Object"), Span(2, 5, "Attribute")], [0, 1]),
        ([Span(2, 9, "Object"), Span(6, 9, "Attribute"), Span(6, 9, "Number")], [1, 0]),  # alike: the first
    ],
)
def test_of_overlapping_spans_a_typed_one_decides_then_the_most_ink_then_the_shorter(spans, types):
    targets = build_targets(caption(Sentence(*FIRST, "incorrect"), spans=tuple(spans)), OFFSETS, TAXONOMY)
    assert targets.token.tolist()[1:3] == [1, 1]
    assert targets.token_type.tolist()[1:3] == types


def test_tokens_count_in_correct_sentences_and_in_incorrect_ones_with_spans():
    targets = build_targets(ALL_KINDS, OFFSETS, TAXONOMY)
    assert targets.token_sentence.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert targets.token_mask.tolist() == [*[True] * 7, *[False] * 5]


def test_sentences_learn_from_votes_else_labels_and_unknown_ones_nothing():
    targets = build_targets(ALL_KINDS, OFFSETS, TAXONOMY)
    assert targets.sentence.tolist() == [0.75, 0, 0, 1]
    assert targets.sentence_mask.tolist() == [True, True, False, True]


def test_incorrect_sentences_without_spans_are_weak_and_list_their_types():
    targets = build_targets(ALL_KINDS, OFFSETS, TAXONOMY)
    assert targets.weak.tolist() == [False, False, False, True]
    assert targets.weak_types.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 1]]


def test_a_span_that_tags_no_token_leaves_its_sentence_weak():
    targets = build_targets(caption(Sentence(*FIRST, "incorrect"), spans=(Span(2, 3),)), OFFSETS, TAXONOMY)
    assert targets.weak.tolist() == [True]
    assert not targets.token_mask.any()


def test_unlabeled_sentences_count_nowhere():
    targets = build_targets(caption(Sentence(*FIRST), Sentence(*SECOND), spans=(Span(2, 5),)), OFFSETS, TAXONOMY)
    assert not targets.token_mask.any()
    assert not targets.token.any()
    assert not targets.sentence_mask.any()
    assert not targets.weak.any()


def test_tokens_outside_the_sentences_count_nowhere_even_under_a_span():
    targets = build_targets(caption(Sentence(*SECOND, "correct"), spans=(Span(2, 5),)), OFFSETS, TAXONOMY)
    assert targets.token_sentence.tolist() == [*[-1] * 4, 0, 0, 0, *[-1] * 5]
    assert targets.token_mask.tolist() == [*[False] * 4, True, True, True, *[False] * 5]
    assert not targets.token.any()


def test_a_span_in_a_sentence_called_correct_is_learned_all_the_same():
    targets = build_targets(caption(Sentence(*FIRST, "correct"), spans=(Span(2, 5, "Object"),)), OFFSETS, TAXONOMY)
    assert targets.token.tolist()[:4] == [0, 1, 0, 0]
    assert targets.token_type.tolist()[1] == 1


def test_a_sentence_whose_tokens_were_left_out_counts_nowhere():
    targets = build_targets(ALL_KINDS, OFFSETS[4:9], TAXONOMY)  # only the second and the third sentence
    assert targets.sentence_mask.tolist() == [False, True, False, False]
    assert not targets.weak.any()
    assert targets.token_sentence.tolist() == [1, 1, 1, 2, 2]


def test_a_caption_none_of_which_fits_has_targets_of_no_tokens():
    targets = build_targets(ALL_KINDS, OFFSETS[:0], TAXONOMY)
    assert targets.token.shape == (0,)
    assert not targets.sentence_mask.any()


def test_the_targets_are_float32_as_the_losses_are():
    targets = build_targets(ALL_KINDS, OFFSETS, TAXONOMY)
    assert {targets.token.dtype, targets.sentence.dtype, targets.weak_types.dtype} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("annotated", "field"),
    [
        (caption(Sentence(*FIRST, "incorrect"), spans=(Span(2, 5), Span(2, 5, "Color"))), "spans[1].type"),
        (caption(Sentence(*FIRST, "incorrect", ("Object", "Color"))), "sentences[0].types[1]"),
    ],
)
def test_a_type_outside_the_taxonomy_is_refused_and_the_taxonomy_listed(annotated, field):
    with pytest.raises(DataError) as error:
        build_targets(annotated, OFFSETS, TAXONOMY)
    assert str(error.value) == (
        f"caption 'c/1': {field}: 'Color' is not in the taxonomy; one of Attribute, Object, Number, or put it there "
        "and train again"
    )
