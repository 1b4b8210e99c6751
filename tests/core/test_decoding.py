import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from halspan.core.alignment import tag_tokens, tokens_to_spans
from halspan.core.captions import PredictedSpan, Sentence, Span
from halspan.core.decoding import DecodingParameters, decode

TEXT = "Two red-brown cats sit. A dog's ball."
#       0123456789012345678901234567890123456
TOKENS = {
    (0, 3): "Two",
    (3, 7): " red",
    (7, 8): "-",
    (8, 13): "brown",
    (13, 17): " cat",
    (17, 18): "s",
    (18, 22): " sit",
    (22, 23): ".",
    (23, 25): " A",
    (25, 29): " dog",
    (29, 31): "'s",
    (31, 36): " ball",
    (36, 37): ".",
}
OFFSETS = np.array(list(TOKENS))
SENTENCES = (Sentence(0, 23), Sentence(24, 37))
TYPES = ("Attribute", "Object")
PLAIN = {"threshold": 0.5, "merge_gap": 0, "min_characters": 1, "snap_to_word": False}


def mark(p: dict[str, float], *, sentences=SENTENCES, types: dict[str, list[float]] | None = None, **changes):
    """Decode with the probabilities of the tokens named; the others have 0.1, and their types are equally likely."""
    names = list(TOKENS.values())
    p_token, p_type = np.full(len(names), 0.1), np.full((len(names), 2), 0.5)
    for name, value in p.items():
        p_token[names.index(name)] = value
    for name, values in (types or {}).items():
        p_type[names.index(name)] = values
    return decode(
        text=TEXT,
        offsets=OFFSETS,
        p_token=p_token,
        p_type=p_type,
        taxonomy=TYPES,
        sentences=sentences,
        parameters=DecodingParameters(**PLAIN | changes),
    )


def texts(spans: tuple[PredictedSpan, ...]) -> list[str]:
    return [TEXT[span.start : span.end] for span in spans]


def test_the_offsets_are_those_of_the_words():
    assert [TEXT[start:end] for start, end in TOKENS] == list(TOKENS.values())


def test_tokens_from_the_threshold_on_are_marked_without_the_space_before_them():
    assert mark({" red": 0.5, " sit": 0.499}) == (PredictedSpan(4, 7, "Attribute", 0.5),)


def test_nothing_above_the_threshold_gives_no_spans():
    assert mark({}) == ()


def test_the_score_is_the_highest_probability_of_the_span_s_tokens():
    (span,) = mark({" cat": 0.6, "s": 0.75})
    assert (span.start, span.end, span.score) == (14, 18, 0.75)


def test_the_type_has_the_most_probability_over_the_span_s_tokens():
    # Attribute: 0.9 * 0.6 + 0.5 * 0.1 = 0.59; Object: 0.9 * 0.4 + 0.5 * 0.9 = 0.81.
    (span,) = mark({" cat": 0.9, "s": 0.5}, types={" cat": [0.6, 0.4], "s": [0.1, 0.9]})
    assert span.type == "Object"
    # Attribute: 0.9 * 0.6 + 0.5 * 0.5 = 0.79; Object: 0.9 * 0.4 + 0.5 * 0.5 = 0.61.
    (span,) = mark({" cat": 0.9, "s": 0.5}, types={" cat": [0.6, 0.4], "s": [0.5, 0.5]})
    assert span.type == "Attribute"


@pytest.mark.parametrize("between", [(3, 5), (4, 4), (2, 2)])
def test_a_token_without_ink_says_nothing_about_the_span_that_it_stands_in(between):
    text = "red\n\ndog"
    (span,) = decode(
        text=text,
        offsets=np.array([(0, 3), between, (5, 8)]),
        p_token=np.array([0.6, 0.99, 0.7]),  # nothing ever taught the second one
        p_type=np.array([[0.9, 0.1], [0.0, 1.0], [0.6, 0.4]]),
        taxonomy=TYPES,
        sentences=[Sentence(0, 8)],
        parameters=DecodingParameters(**PLAIN),
    )
    assert (span.start, span.end, span.type, span.score) == (0, 8, "Attribute", 0.7)


def test_without_a_taxonomy_spans_have_no_type():
    parameters = DecodingParameters(**PLAIN)
    (span,) = decode(
        text="cat",
        offsets=np.array([(0, 3)]),
        p_token=np.array([0.9]),
        p_type=np.zeros((1, 0)),
        taxonomy=(),
        sentences=[Sentence(0, 3)],
        parameters=parameters,
    )
    assert span == PredictedSpan(0, 3, None, 0.9)


def test_spans_do_not_cross_sentences():
    assert texts(mark({".": 0.9, " A": 0.9})) == [".", "A"]
    assert texts(mark({".": 0.9, " A": 0.9}, merge_gap=5)) == [".", "A"]


def test_an_unscored_sentence_is_never_marked():
    assert texts(mark({" red": 0.9, " A": 0.9}, sentences=SENTENCES[1:])) == ["A"]
    assert mark({" red": 0.9, " A": 0.9}, sentences=()) == ()


def test_a_gap_up_to_the_limit_is_closed():
    apart = {"Two": 0.9, " cat": 0.9}  # " red-brown " of 11 characters between them
    assert texts(mark(apart, merge_gap=10)) == ["Two", "cat"]
    assert texts(mark(apart, merge_gap=11)) == ["Two red-brown cat"]


def test_three_spans_join_when_each_gap_is_small():
    assert texts(mark({"Two": 0.9, "-": 0.9, " cat": 0.9}, merge_gap=6)) == ["Two red-brown cat"]


def test_short_spans_are_dropped_after_joining():
    assert texts(mark({"s": 0.9, " ball": 0.9}, min_characters=2)) == ["ball"]
    assert texts(mark({"-": 0.9, "s": 0.9}, min_characters=2, merge_gap=20)) == ["-brown cats"]


def test_snapping_widens_to_words_with_their_hyphens_and_apostrophes():
    assert texts(mark({"brown": 0.9, "s": 0.9, " dog": 0.9}, snap_to_word=True)) == ["red-brown", "cats", "dog's"]


def test_snapping_leaves_punctuation_and_whole_words_alone():
    assert texts(mark({".": 0.9, " ball": 0.9}, snap_to_word=True)) == [".", "ball"]


@pytest.mark.parametrize(
    ("text", "marked", "snapped"),
    [
        ("लाल घोड़े पर", "घो", "घोड़े"),  # vowel signs and a dot below
        ("वह क्षत्रिय है", "त्रि", "क्षत्रिय"),  # the sign that joins consonants
        ("او می\u200cخواهد", "خ", "می\u200cخواهد"),  # a zero-width non-joiner
        ("a cafe\u0301s", "s", "cafe\u0301s"),
        ("한국어 말", "국", "한국어"),
        ("ผู้ชายขี่ม้า", "ชาย", "ชาย"),  # no spaces between words
        ("一个男人骑马", "男人", "男人"),
        ("A 👩🏽\u200d👩\u200d👧 waves", "👩🏽\u200d👩\u200d👧", "👩🏽\u200d👩\u200d👧"),
    ],
)
def test_words_of_every_script_have_their_marks_and_those_without_spaces_are_not_widened(text, marked, snapped):
    start = text.index(marked)
    (span,) = decode(
        text=text,
        offsets=np.array([(start, start + len(marked))]),
        p_token=np.array([0.9]),
        p_type=np.zeros((1, 0)),
        taxonomy=(),
        sentences=[Sentence(0, len(text))],
        parameters=DecodingParameters(**PLAIN | {"snap_to_word": True}),
    )
    assert text[span.start : span.end] == snapped


def test_two_parts_of_one_word_snap_to_one_span():
    assert texts(mark({" red": 0.9, "brown": 0.9}, snap_to_word=True)) == ["red-brown"]


def test_a_word_snaps_no_further_than_its_sentence():
    assert texts(mark({"brown": 0.9}, snap_to_word=True, sentences=(Sentence(6, 12),))) == ["d-brow"]


def test_the_score_of_a_widened_span_is_that_of_all_its_tokens():
    (span,) = mark({" cat": 0.3, "s": 0.9}, snap_to_word=True, types={" cat": [1, 0], "s": [0.6, 0.4]})
    assert (TEXT[span.start : span.end], span.score) == ("cats", 0.9)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0},
        {"threshold": 1.1},
        {"threshold": float("nan")},
        {"merge_gap": -1},
        {"min_characters": 0},
        {"snap": True},
        {"snap_to_word": "perhaps"},
    ],
)
def test_impossible_parameters_are_refused(changes):
    with pytest.raises(ValidationError):
        DecodingParameters(**PLAIN | changes)


words = st.lists(st.one_of(st.text(max_size=5), st.sampled_from([" red", " horse-s", "日本", ". "])), min_size=1)


@st.composite
def sentences_of(draw: st.DrawFn, text: str) -> tuple[Sentence, ...]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    return tuple(Sentence(*pair) for pair in zip(cuts[::2], cuts[1::2], strict=False))


@given(data=st.data(), text=words.map("".join))
def test_spans_of_any_text_are_ordered_apart_and_inside_one_scored_sentence(tokenize, data, text):
    tokens = tokenize(text)
    p_token = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(tokens), max_size=len(tokens))))
    sentences = data.draw(sentences_of(text))
    parameters = DecodingParameters(
        threshold=data.draw(st.floats(0.01, 1)),
        merge_gap=data.draw(st.integers(0, 5)),
        min_characters=data.draw(st.integers(1, 4)),
        snap_to_word=data.draw(st.booleans()),
    )
    spans = decode(
        text=text,
        offsets=tokens,
        p_token=p_token,
        p_type=np.full((len(tokens), 2), 0.5),
        taxonomy=TYPES,
        sentences=sentences,
        parameters=parameters,
    )
    last_end = -1
    for span in spans:
        assert last_end <= span.start
        assert span.end - span.start >= parameters.min_characters
        assert any(sentence.start <= span.start and span.end <= sentence.end for sentence in sentences)
        assert span.score >= parameters.threshold
        last_end = span.end


@given(data=st.data(), text=words.map("".join))
def test_gold_tags_decode_to_the_gold_spans(tokenize, data, text):
    tokens = tokenize(text)
    position = st.integers(0, len(text))
    pairs = data.draw(st.lists(st.tuples(position, position).filter(lambda pair: pair[0] < pair[1]), max_size=3))
    aligned = tokens_to_spans(tag_tokens(tokens, [Span(*pair) for pair in pairs], text), tokens, text)
    gold = [Span(*pair) for pair in aligned]
    spans = decode(
        text=text,
        offsets=tokens,
        p_token=tag_tokens(tokens, gold, text).astype(float),
        p_type=np.full((len(tokens), 2), 0.5),
        taxonomy=TYPES,
        sentences=[Sentence(0, len(text))] if text else [],
        parameters=DecodingParameters(**PLAIN),
    )
    assert [(span.start, span.end) for span in spans] == tokens_to_spans(tag_tokens(tokens, gold, text), tokens, text)
