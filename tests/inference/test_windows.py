from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from halspan.core.captions import Caption, Sentence
from halspan.core.text.sentences import split_sentences
from halspan.inference.forward import score_batch
from halspan.inference.windows import Window, encode_texts, plan_windows, score_texts
from halspan.models.detector import build_detector
from halspan.models.model_spec import LoraSpec, ModelSpec

IMAGE = Image.linear_gradient("L").convert("RGB").resize((40, 30))
LONG = " ".join(f"A man rides a red horse number {n}. He wears a hat." for n in range(8))
ENDLESS = LONG.replace(".", ",")


def tokens(*lengths: int) -> np.ndarray:
    """Return the sentences of tokens; a negative length is so many tokens between sentences."""
    parts, sentence = [], 0
    for length in lengths:
        parts.append(np.full(abs(length), sentence if length > 0 else -1))
        sentence += length > 0
    return np.concatenate(parts)


def test_what_fits_is_one_window():
    assert plan_windows(tokens(3, -1, 4), 8, is_causal=True) == [Window(0, 8, 0, 8, range(2))]


def test_a_window_holds_whole_sentences_and_a_quarter_of_context():
    # room 8, context at most 2: sentence 2 has sentence 1 (2 tokens) before it, sentence 3 has none, for 2 has 5 tokens
    assert plan_windows(tokens(5, 2, 5, 6), 8, is_causal=True) == [
        Window(0, 7, 0, 7, range(2)),
        Window(5, 12, 7, 12, range(2, 3)),
        Window(12, 18, 12, 18, range(3, 4)),
    ]


def test_every_window_holds_as_many_sentences_as_fit():
    windows = plan_windows(tokens(3, 3, 3, 3, 3), 6, is_causal=True)
    assert [(window.start, window.stop) for window in windows] == [(0, 6), (6, 12), (12, 15)]


def test_a_long_sentence_is_cut_in_halves_and_a_token_counts_where_the_nearest_cut_is_farthest():
    assert plan_windows(tokens(2, 12, 2), 8, is_causal=False) == [
        Window(0, 2, 0, 2, range(1)),
        Window(2, 10, 2, 8, range(1, 2)),  # 6 to 9 are in both; 8 is farther from the other's cut
        Window(6, 14, 8, 14, range(1, 2)),
        Window(14, 16, 14, 16, range(2, 3)),
    ]


def test_where_words_see_only_what_comes_before_them_the_first_window_counts():
    windows = plan_windows(tokens(12), 8, is_causal=True)
    assert windows == [Window(0, 8, 0, 8, range(1)), Window(4, 12, 8, 12, range(1))]


def test_a_window_that_holds_only_the_whitespace_inside_a_sentence_is_left_out():
    # of the windows of 2 tokens, which begin at 0 to 6, those that begin at 2, 3 and 4 hold no token of the sentence
    token_sentence = np.array([0, 0, -1, -1, -1, -1, 0, 0])
    assert [window.start for window in plan_windows(token_sentence, 2, is_causal=True)] == [0, 1, 5, 6]


@given(st.lists(st.integers(-9, 30).filter(bool), min_size=1, max_size=12), st.integers(1, 25), st.booleans())
def test_every_token_of_a_sentence_counts_once_and_no_window_is_too_long(lengths, room, is_causal):
    token_sentence = tokens(*lengths)
    counted = np.zeros(len(token_sentence), dtype=int)
    seen = set()
    for window in plan_windows(token_sentence, room, is_causal=is_causal):
        assert 0 <= window.start <= window.counts_from <= window.counts_to <= window.stop <= len(token_sentence)
        assert window.stop - window.start <= room
        counted[window.counts_from : window.counts_to] += 1
        seen |= set(window.sentences)
    assert (counted[token_sentence >= 0] == 1).all()
    assert seen >= set(token_sentence[token_sentence >= 0].tolist())


@given(st.lists(st.integers(1, 6), min_size=2, max_size=12), st.integers(8, 20))
def test_sentences_that_fit_are_never_cut(lengths, room):
    token_sentence = tokens(*lengths)
    for window in plan_windows(token_sentence, room, is_causal=True):
        inside = token_sentence[window.start : window.stop]
        for sentence in window.sentences:
            assert (inside == sentence).sum() == lengths[sentence]


def spec(context: str = "causal", **changes) -> ModelSpec:
    default = {"max_tokens": 512, "pack_tokens": 512, "dtype": "float32", "attention": "eager"}
    lora = LoraSpec(r=2, alpha=4, dropout=0.0, targets=["language"])
    return ModelSpec(backbone="builtin:llama4-tiny", prompt="What?", context=context, lora=lora, **(default | changes))


@pytest.fixture(scope="module")
def make():
    """Build detectors with the same weights, in which every part does something."""

    def make(context="causal", room=None):
        changes = {}
        if room is not None:
            _, encoder = build_detector(spec(context), ("Attribute", "Object"))
            _, whole = encoder.encode_whole(IMAGE, [caption("A.")])
            changes["max_tokens"] = 512 - (whole - room) * (2 if context == "echo" else 1)
        torch.manual_seed(0)
        detector, encoder = build_detector(spec(context, **changes), ("Attribute", "Object"))
        torch.manual_seed(1)
        for name, parameter in detector.named_parameters():
            if parameter.requires_grad and ("lora_B" in name or not name.startswith("backbone.")):
                torch.nn.init.normal_(parameter, std=0.1)
        return detector.eval(), encoder

    return make


def caption(text, id_="1"):
    sentences = tuple(Sentence(*pair) for pair in split_sentences(text))
    return Caption(id_, "a.png", "g", "image_to_text", text, sentences)


def run(parts, *captions, is_causal=True, batch_tokens=10_000):
    return score(parts, [[item] for item in captions], is_causal=is_causal, batch_tokens=batch_tokens)


def score(parts, rows, *, is_causal, batch_tokens=10_000, **options):
    texts = [encode_texts(parts[1], IMAGE, captions, is_causal=is_causal) for captions in rows]
    return score_texts(*parts, texts, batch_tokens=batch_tokens, **options)


def same(one, other):
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_allclose(one.token_logit, other.token_logit, atol=1e-5)
    np.testing.assert_allclose(one.p_type, other.p_type, atol=1e-5)
    assert one.unscored == other.unscored
    for left, right in zip(one.sentence_logit, other.sentence_logit, strict=True):
        assert (left is None) == (right is None)
        assert left is None or left == pytest.approx(right, abs=1e-5)


def test_a_text_that_fits_is_scored_as_in_training(make):
    (detector, encoder), text = make(), caption(LONG)
    (ours,) = run((detector, encoder), text)
    batch = encoder.collate([encoder.encode(IMAGE, [text], targets=False)])
    (theirs,) = score_batch(detector.eval(), batch)
    same(ours, theirs)


@pytest.mark.parametrize("context", ["causal", "echo", "bidirectional", "bidirectional_sentence"])
def test_a_long_text_has_a_score_for_every_sentence_and_token(make, context):
    parts, text = make(context, room=60), caption(LONG)
    (scores,) = run(parts, text, is_causal=context == "causal")
    assert scores.unscored == (None,) * 16
    (whole,) = run(make(context), text, is_causal=context == "causal")
    n_between = sum(text.text[start:end].isspace() for start, end in whole.offsets)
    assert len(whole.offsets) - n_between <= len(scores.offsets) <= len(whole.offsets)
    assert (np.diff(scores.offsets[:, 0]) >= 0).all()


def test_the_first_window_is_scored_as_if_the_text_ended_with_it(make):
    parts = make("bidirectional", room=60)
    (long,) = run(parts, caption(LONG), is_causal=False)
    n = next(n for n in range(16, 0, -1) if len(parts[1].encode_whole(IMAGE, [head(n)])[0].captions[0].ids) <= 60)
    (short,) = run(parts, head(n), is_causal=False)
    n_tokens = len(short.offsets)
    np.testing.assert_allclose(long.token_logit[:n_tokens], short.token_logit, atol=1e-5)
    assert long.sentence_logit[:n] == pytest.approx(short.sentence_logit, abs=1e-5)
    assert n < 16


def head(n):
    """Return the first sentences of the long text."""
    whole = caption(LONG)
    return replace(whole, text=LONG[: whole.sentences[n - 1].end], sentences=whole.sentences[:n])


def test_a_sentence_beyond_the_window_is_scored_whole_and_as_wrong_as_its_worst_window(make):
    (cut,) = run(make(room=60), caption(ENDLESS))
    (whole,) = run(make(), caption(ENDLESS))
    np.testing.assert_array_equal(cut.offsets, whole.offsets)
    np.testing.assert_allclose(cut.token_logit[:60], whole.token_logit[:60], atol=1e-5)  # a causal token sees the same
    assert np.abs(cut.token_logit[60:] - whole.token_logit[60:]).max() > 1e-4
    parts = make(room=60)
    n_windows = len(plan_windows(np.zeros(len(whole.offsets), dtype=int), 60, is_causal=True))
    assert n_windows > 3
    pieces = [caption(ENDLESS[: cut.offsets[59, 1]])]
    assert cut.sentence_logit[0] >= run(parts, *pieces)[0].sentence_logit[0] - 1e-5


def test_neither_the_size_of_passes_nor_order_nor_company_matters(make):
    parts = make("bidirectional", room=60)
    texts = [caption(LONG, "0"), caption("A dog.", "1"), caption(ENDLESS, "2"), caption("Мужчина едет. 马 стоят!", "3")]
    together = run(parts, *texts, is_causal=False)
    assert [item.caption.id for item in together] == ["0", "1", "2", "3"]
    for one, other in zip(together, run(parts, *texts, is_causal=False, batch_tokens=1), strict=True):
        same(one, other)
    for one, other in zip(together, reversed(run(parts, *reversed(texts), is_causal=False)), strict=True):
        same(one, other)
    shared = score(parts, [texts], is_causal=False)
    for one, other in zip(together, shared, strict=True):
        same(one, other)


def test_what_stands_between_given_sentences_may_be_long(make):
    text = "A dog. " + "- " * 200 + "He runs."
    item = Caption("1", "a", "g", "image_to_text", text, (Sentence(0, 6), Sentence(len(text) - 8, len(text))))
    (scores,) = run(make(room=30), item)
    assert None not in scores.sentence_logit


def test_a_sentence_without_tokens_is_unscored(make):
    item = Caption("1", "a", "g", "image_to_text", "A dog.   ", (Sentence(0, 6), Sentence(7, 8)))
    (scores,) = run(make(), item)
    assert scores.sentence_logit[0] is not None
    assert (scores.sentence_logit[1], scores.unscored[1]) == (None, "the tokenizer finds no token in it")
    (long,) = run(make(room=4), item)
    assert (long.sentence_logit[1], long.unscored[1]) == (None, "the tokenizer finds no token in it")


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_window_that_would_hold_whitespace_alone_is_left_out(make, is_causal):
    text = "A red" + "\n" * 200 + "dog sits."
    item = Caption("1", "a", "g", "image_to_text", text, (Sentence(0, len(text)),))
    (scores,) = run(make("causal" if is_causal else "bidirectional", room=30), item, is_causal=is_causal)
    read = {text[start:end] for start, end in scores.offsets}
    assert scores.sentence_logit[0] is not None
    assert all(letter in "".join(read) for letter in "Areddogsits.")


def test_a_sentence_counts_once_in_the_cost_however_many_windows_read_it(make):
    without_ink = Caption("2", "a", "g", "image_to_text", "A dog.   ", (Sentence(0, 6), Sentence(7, 8)))
    costs = []
    between_others = caption(f"A dog sits. {ENDLESS} and so on. It runs.", "3")
    rows = [[caption(LONG), caption(ENDLESS, "1"), without_ink, between_others]]
    score(make(room=60), rows, is_causal=True, on_pass=costs.append)
    assert len(costs) == 1  # LONG and ENDLESS take several windows each
    assert sum(cost.sentences for cost in costs) == 16 + 1 + 1 + 3


def test_all_windows_of_a_text_are_used(make):
    (scores,) = run(make(room=40), caption(LONG))
    assert all(end - start >= 0 for start, end in pairwise(scores.offsets[:, 0]))
    assert scores.offsets[-1, 1] == len(LONG)
