"""Every character that a reader sees belongs to a token, whatever the tokenizer does to the text."""

import unicodedata
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import SENTENCES, make_tokenizer, offsets_of

from halspan.core.alignment import fit_offsets, range_of_token
from halspan.core.captions import Caption, Sentence, Span
from halspan.core.decoding import DecodingParameters, decode
from halspan.core.targets import build_targets

DECODING = DecodingParameters(threshold=0.5, merge_gap=0, min_characters=1, snap_to_word=False)
TEXTS = [(script, form) for script in SENTENCES for form in ("NFC", "NFD")]
TOKENIZERS = [  # every kind, and every normalizer, with what it is used with
    *[("bytes", normalizer) for normalizer in ("none", "NFC", "NFKC")],
    ("trimmed bytes", "NFC"),
    *[("words", normalizer) for normalizer in ("NFD", "without accents", "BERT")],
    *[("pieces", normalizer) for normalizer in ("none", "NFKC", "without accents")],
    *[("characters", normalizer) for normalizer in ("none", "NFC", "BERT")],
]
every_tokenizer = pytest.mark.parametrize(("kind", "normalizer"), TOKENIZERS)


def make_caption(*sentences: str, between: str = " ", spans: tuple[Span, ...] = ()) -> Caption:
    """Join sentences, all incorrect, to a caption."""
    ranges, start = [], 0
    for sentence in sentences:
        ranges.append(Sentence(start, start + len(sentence), "incorrect"))
        start += len(sentence) + len(between)
    return Caption("1", "1.png", "g", "image_to_text", between.join(sentences), tuple(ranges), spans)


def caption_in(script: str, form: str, **options) -> Caption:
    return make_caption(*(unicodedata.normalize(form, sentence) for sentence in SENTENCES[script]), **options)


def fitted(kind: str, normalizer: str, caption: Caption) -> np.ndarray:
    return fit_offsets(offsets_of(make_tokenizer(kind, normalizer), caption.text), caption.text, caption.sentences)


def perfect(caption: Caption, offsets: np.ndarray) -> list[tuple[int, int]]:
    """Return the spans that a detector marks if it gives every token its target."""
    found = decode(
        text=caption.text,
        offsets=offsets,
        p_token=build_targets(caption, offsets, ()).token.astype(float),
        p_type=np.zeros((len(offsets), 0)),
        taxonomy=(),
        sentences=caption.sentences,
        parameters=DECODING,
    )
    return [(span.start, span.end) for span in found]


def ink_of(text: str, *ranges: tuple[int, int]) -> set[int]:
    return {at for start, end in ranges for at in range(start, end) if not text[at].isspace()}


def graphemes(text: str) -> list[int]:
    return [0, *(match.end() for match in regex.finditer(r"\X", text))]


def edges_that_no_token_crosses(caption: Caption, offsets: np.ndarray) -> list[int]:
    """Return where spans may begin and end: between graphemes, and not between ink of one token."""
    text = caption.text
    crossed = {
        at
        for start, end in offsets.tolist()
        for at in range(start + 1, end)
        if text[start:at].strip() and text[at:end].strip()
    }
    return [at for at in graphemes(text) if at not in crossed]


@every_tokenizer
def test_every_character_belongs_to_a_token_of_its_sentence(kind, normalizer):
    for script, form in TEXTS:
        caption = caption_in(script, form)
        offsets = fitted(kind, normalizer, caption)
        sentence = range_of_token(offsets, caption.sentences, caption.text)
        for number, each in enumerate(caption.sentences):
            held = ink_of(caption.text, *map(tuple, offsets[sentence == number].tolist()))
            assert held == ink_of(caption.text, (each.start, each.end)), (script, form)


@every_tokenizer
def test_a_perfect_detector_marks_every_span_that_ends_where_tokens_do(kind, normalizer):
    for script, form in TEXTS:
        caption = caption_in(script, form)
        offsets = fitted(kind, normalizer, caption)
        edges = edges_that_no_token_crosses(caption, offsets)
        assert {each.end for each in caption.sentences} <= set(edges)
        pieces = [Span(*pair) for pair in pairwise(edges) if caption.text[slice(*pair)].strip()]
        for first in range(3):
            marked = replace(caption, spans=tuple(pieces[first::3]))
            gold = ink_of(caption.text, *((span.start, span.end) for span in marked.spans))
            assert ink_of(caption.text, *perfect(marked, offsets)) == gold, (script, form)


@pytest.mark.parametrize("normalizer", ["none", "NFC", "NFKC", "NFD", "without accents", "BERT"])
def test_with_a_token_for_each_character_spans_may_end_at_every_grapheme(normalizer):
    for script, form in TEXTS:
        if (script, normalizer) != ("left out", "BERT"):  # which has no tokens of its own for what it leaves out
            caption = caption_in(script, form)
            edges = edges_that_no_token_crosses(caption, fitted("characters", normalizer, caption))
            assert edges == graphemes(caption.text), (script, form)


@pytest.mark.parametrize(("kind", "normalizer"), [("bytes", "none"), ("pieces", "NFC"), ("words", "BERT")])
@given(text=st.text(min_size=1, max_size=20).filter(str.strip), cuts=st.sets(st.integers(1, 19), max_size=3))
@settings(max_examples=40)
def test_of_any_text_tokens_hold_whole_graphemes_of_one_sentence(kind, normalizer, text, cuts):
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    caption = Caption("1", "i", "g", "image_to_text", text, tuple(Sentence(*pair) for pair in pairwise(edges)))
    raw = offsets_of(make_tokenizer(kind, normalizer), text)
    offsets = fit_offsets(raw, text, caption.sentences)
    scored = set(range_of_token(offsets, caption.sentences, text).tolist())
    for number in scored - {-1}:
        zone = ink_of(text, (edges[number], edges[number + 1]))
        assert zone & ink_of(text, *raw.tolist()) <= zone & ink_of(text, *offsets.tolist())
    assert set(offsets[offsets[:, 0] < offsets[:, 1]].ravel().tolist()) <= {*edges, *graphemes(text)}
    for start, end in offsets.tolist():
        assert sum(bool(ink_of(text, (max(start, each.start), min(end, each.end)))) for each in caption.sentences) <= 1


def test_what_a_tokenizer_that_composes_leaves_out_belongs_to_the_letter():
    text = unicodedata.normalize("NFD", "한말")
    assert fit_offsets(np.array([(0, 1), (3, 4)]), text, [Sentence(0, len(text))]).tolist() == [[0, 3], [3, 6]]


def test_a_token_that_begins_with_the_accent_of_another_one_begins_behind_it():
    assert fit_offsets(np.array([(0, 1), (1, 3)]), "e\u0301s", [Sentence(0, 3)]).tolist() == [[0, 2], [2, 3]]
    assert fit_offsets(np.array([(1, 3)]), "e\u0301s", [Sentence(0, 3)]).tolist() == [[0, 3]]


def test_what_is_left_out_belongs_to_the_token_before_it_or_else_behind_it():
    text = "\u200ba\u200bb \u200b \u200b"
    fit = fit_offsets(np.array([(1, 2), (3, 4), (4, 5)]), text, [Sentence(0, len(text))])
    assert fit.tolist() == [[0, 3], [3, 4], [4, 5]]  # nothing stands beside the others


def test_a_token_of_two_sentences_keeps_to_the_one_with_most_of_it():
    # "He", ".She", "ran": the full stop belongs to the first sentence, the only tokens there are "He"
    caption = make_caption("He.", "She ran.", between="")
    offsets = fit_offsets(np.array([(0, 2), (2, 6), (6, 10), (10, 11)]), caption.text, caption.sentences)
    assert offsets.tolist() == [[0, 3], [3, 6], [6, 10], [10, 11]]
    for span in (Span(0, 3), Span(3, 6)):
        assert perfect(replace(caption, spans=(span,)), offsets) == [(span.start, span.end)]


def test_offsets_that_fit_stay_as_they_are():
    text = "A red  horse."
    offsets = np.array([(0, 1), (1, 5), (5, 6), (6, 12), (12, 12), (12, 13)])
    assert fit_offsets(offsets, text, [Sentence(0, 13)]).tolist() == offsets.tolist()
    assert fit_offsets(offsets[:0], text, [Sentence(0, 13)]).shape == (0, 2)
    assert fit_offsets(offsets, text, []).tolist() == offsets.tolist()
