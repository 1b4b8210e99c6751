import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.alignment import range_of_token, tag_tokens, token_coverage, tokens_to_spans
from halspan.core.captions import Sentence, Span


def offsets(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


HORSE = "A red horse."
#        0123456789ab
HORSE_OFFSETS = offsets((0, 1), (1, 5), (5, 11), (11, 12))  # "A", " red", " horse", "."


def test_a_token_is_covered_by_the_share_of_its_ink_that_the_spans_hold():
    # [3, 8) holds "ed" of "red" (2 of 3) and "ho" of "horse" (2 of 5); the spaces inside the tokens do not count.
    assert token_coverage(HORSE_OFFSETS, [Span(3, 8)], HORSE).tolist() == [0, 2 / 3, 2 / 5, 0]


def test_overlapping_nested_and_duplicate_spans_cover_a_character_once():
    spans = [Span(2, 4), Span(3, 5), Span(2, 5), Span(2, 5)]
    assert token_coverage(HORSE_OFFSETS, spans, HORSE).tolist() == [0, 1, 0, 0]


def test_a_token_of_whitespace_and_an_empty_token_are_never_covered():
    text = "a  b"
    assert token_coverage(offsets((0, 1), (1, 2), (2, 2), (2, 4)), [Span(0, 4)], text).tolist() == [1, 0, 0, 1]


def test_every_kind_of_unicode_whitespace_is_no_ink():
    text = "a\u3000\u00a0\t\n\u2028b"
    assert token_coverage(offsets((0, 6)), [Span(0, 1)], text).tolist() == [1.0]


def test_half_of_the_ink_tags_a_token_and_less_does_not():
    text = "abcd efgh"
    assert tag_tokens(offsets((0, 4), (4, 9)), [Span(2, 6)], text).tolist() == [True, False]


def test_a_span_that_starts_inside_a_token_tags_it_from_half_on():
    text = "woman"
    assert tag_tokens(offsets((0, 5)), [Span(2, 5)], text).tolist() == [True]
    assert tag_tokens(offsets((0, 5)), [Span(3, 5)], text).tolist() == [False]


def test_no_tokens_and_no_spans_give_empty_and_untagged():
    assert token_coverage(offsets(), [Span(0, 1)], HORSE).shape == (0,)
    assert not tag_tokens(HORSE_OFFSETS, [], HORSE).any()
    assert tokens_to_spans(np.zeros(4, dtype=bool), HORSE_OFFSETS, HORSE) == []
    assert range_of_token(HORSE_OFFSETS, [], HORSE).tolist() == [-1, -1, -1, -1]
    assert range_of_token(offsets(), [Span(0, 1)], HORSE).shape == (0,)


def test_a_token_belongs_to_the_sentence_that_holds_most_of_its_ink():
    text = "One. Two.!x"
    sentences = [Sentence(0, 4), Sentence(5, 9)]
    tokens = offsets((0, 3), (3, 4), (4, 8), (8, 11), (4, 5))  # "One", ".", " Two", ".!x", " "
    assert range_of_token(tokens, sentences, text).tolist() == [0, 0, 1, 1, -1]


def test_a_token_outside_every_sentence_belongs_to_none():
    assert range_of_token(HORSE_OFFSETS, [Sentence(2, 5)], HORSE).tolist() == [-1, 0, -1, -1]


def test_of_overlapping_spans_a_token_belongs_to_the_one_with_most_of_it_the_first_of_equals():
    spans = [Span(2, 3), Span(2, 5, "Attribute"), Span(2, 11, "Object")]
    assert range_of_token(HORSE_OFFSETS, spans, HORSE).tolist() == [-1, 1, 2, -1]


def test_neighboring_tagged_tokens_join_without_the_space_before_them():
    tags = np.array([False, True, True, False])
    assert tokens_to_spans(tags, HORSE_OFFSETS, HORSE) == [(2, 11)]


def test_tokens_without_a_tag_between_them_stay_apart():
    tags = np.array([True, False, True, True])
    assert tokens_to_spans(tags, HORSE_OFFSETS, HORSE) == [(0, 1), (6, 12)]


def test_a_span_bridges_tokens_of_whitespace():
    text = "red  horse"
    tags = np.array([True, False, True])
    assert tokens_to_spans(tags, offsets((0, 3), (3, 4), (4, 10)), text) == [(0, 10)]


def test_a_span_ends_at_ink_that_no_token_covers():
    assert tokens_to_spans(np.array([True, True]), offsets((0, 1), (2, 3)), "a\x00b") == [(0, 1), (2, 3)]


def test_spans_do_not_cross_or_leave_the_sentences():
    text = "One. Two. Three"
    tags = np.ones(3, dtype=bool)
    tokens = offsets((0, 4), (4, 9), (9, 15))
    assert tokens_to_spans(tags, tokens, text, within=[Sentence(0, 4), Sentence(5, 9)]) == [(0, 4), (5, 9)]
    assert tokens_to_spans(tags, tokens, text) == [(0, 15)]


def test_bytes_of_one_character_give_one_span(tokenize):
    text = "a 🐕 runs"
    tokens = tokenize(text)
    tags = (tokens == (2, 3)).all(axis=1)
    assert tags.sum() >= 2  # the emoji is several tokens with the same offsets
    tags[np.flatnonzero(tags)[1:]] = False
    assert tokens_to_spans(tags, tokens, text) == [(2, 3)]


@pytest.mark.parametrize("text", ["A man rides a  red horse.", "🐕 naïve 日本犬  \n x", "e\u0301 é", "  "])
def test_a_span_over_the_whole_text_tags_every_token_with_ink(tokenize, text):
    tokens = tokenize(text)
    has_ink = [bool(text[start:end].strip()) for start, end in tokens]
    assert tag_tokens(tokens, [Span(0, len(text))], text).tolist() == has_ink


def aligned_tags(data: st.DataObject, tokens: np.ndarray, text: str) -> np.ndarray:
    """Draw tags that spans can express: none for tokens without ink, equal ones for tokens that share ink."""
    ink = [{at for at in range(start, end) if not text[at].isspace()} for start, end in tokens]
    tags = np.array([bool(held) and data.draw(st.booleans()) for held in ink], dtype=bool)
    for _ in ink:
        for at, held in enumerate(ink):
            tags[at] |= any(held & other for other, tag in zip(ink, tags, strict=True) if tag)
    return tags


# Words of the tokenizer (so that merged tokens occur) among any characters of Unicode.
texts = st.lists(st.one_of(st.text(max_size=6), st.sampled_from([" red", " horse", "日本", " café", "  "]))).map(
    "".join
)


@given(data=st.data(), text=texts)
def test_tags_to_spans_to_tags_is_the_identity(tokenize, data, text):
    tokens = tokenize(text)
    tags = aligned_tags(data, tokens, text)
    spans = [Span(start, end) for start, end in tokens_to_spans(tags, tokens, text)]
    assert tag_tokens(tokens, spans, text).tolist() == tags.tolist()


@given(data=st.data(), text=texts)
def test_spans_to_tags_to_spans_is_the_identity_on_token_aligned_spans(tokenize, data, text):
    tokens = tokenize(text)
    spans = [Span(*pair) for pair in tokens_to_spans(aligned_tags(data, tokens, text), tokens, text)]
    assert tokens_to_spans(tag_tokens(tokens, spans, text), tokens, text) == [(span.start, span.end) for span in spans]


@given(data=st.data(), text=st.text(min_size=1))
def test_coverage_is_what_counting_characters_says(tokenize, data, text):
    position = st.integers(0, len(text))
    pairs = data.draw(st.lists(st.tuples(position, position).filter(lambda pair: pair[0] < pair[1]), max_size=4))
    covered = {at for start, end in pairs for at in range(start, end)}
    tokens = tokenize(text)
    shares = []
    for start, end in tokens:
        ink = [at for at in range(start, end) if not text[at].isspace()]
        shares.append(sum(at in covered for at in ink) / len(ink) if ink else 0.0)
    assert token_coverage(tokens, [Span(*pair) for pair in pairs], text).tolist() == shares


@given(tags=st.lists(st.booleans(), min_size=1, max_size=12), text=st.text(min_size=1, max_size=12), data=st.data())
def test_spans_are_ordered_disjoint_and_begin_and_end_with_ink(tags, text, data):
    position = st.integers(0, len(text))
    tokens = offsets(*[sorted(data.draw(st.tuples(position, position))) for _ in tags])
    last_end = 0
    for start, end in tokens_to_spans(np.array(tags), tokens, text):
        assert last_end <= start < end <= len(text)
        assert not text[start].isspace()
        assert not text[end - 1].isspace()
        last_end = end
