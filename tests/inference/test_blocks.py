import threading
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_llama4 import tiny_spec

from halspan.core.captions import Caption, Sentence
from halspan.core.cost import Cost
from halspan.core.errors import DataError, ModelError
from halspan.core.text.sentences import split_sentences
from halspan.inference import scorer as scorer_module
from halspan.inference.blocks import MOST_CAPTIONS, Answered, Asked, divide, in_order, share_rows
from halspan.inference.scorer import Scorer
from halspan.models.detector import build_detector

COLORS = ("red", "green", "blue", "white")


def caption(number, n_words=2):
    text = f"It is {number}. It is {'very ' * n_words}big."
    sentences = tuple(Sentence(*pair) for pair in split_sentences(text))
    return Caption(str(number), "a.png", "g", "image_to_text", text, sentences)


def picture(color):
    return Image.new("RGB", (32, 32), color)


@pytest.fixture(scope="module")
def scorer():
    spec = tiny_spec()
    torch.manual_seed(0)
    parts = build_detector(spec, ("Attribute", "Object"))
    for name, parameter in parts[0].named_parameters():
        if parameter.requires_grad and ("lora_B" in name or not name.startswith("backbone.")):
            torch.nn.init.normal_(parameter, std=0.2)
    return Scorer(*parts, spec)


def ask(colors, *, alone=False, load=picture):
    return [
        Asked(caption(number, number % 5 * 4), number if alone else color, partial(load, color))
        for number, color in enumerate(colors)
    ]


def score(scorer, *blocks, **options):
    parts = scorer.score_blocks(blocks, lambda asked: (None, asked), **({"batch_tokens": 4096} | options))
    return list(in_order(parts))


def same(one, other):
    assert one.caption == other.caption
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_allclose(one.token_logit, other.token_logit, atol=1e-5)
    np.testing.assert_allclose(one.p_type, other.p_type, atol=1e-5)
    np.testing.assert_allclose(one.sentence_logit, other.sentence_logit, atol=1e-5)


def test_captions_of_one_image_make_one_row_wherever_they_stand():
    rows = share_rows(ask(["red", "blue", "red", "green", "blue"]))
    assert [row.places for row in rows] == [[0, 2], [1, 4], [3]]
    assert [[one.id for one in row.captions] for row in rows] == [["0", "2"], ["1", "4"], ["3"]]


def test_blocks_are_divided_by_captions_and_by_bytes():
    lengths = [len(block) for block in divide(range(600), lambda _: (1, 0))]
    assert lengths == [MOST_CAPTIONS, MOST_CAPTIONS, 600 - 2 * MOST_CAPTIONS]
    assert list(divide([30, 30, 80, 30], lambda size: (1, size * 2**20))) == [[30, 30], [80], [30]]
    assert list(divide([100, 200, 60], lambda n: (n, 0))) == [[100], [200], [60]]


def test_items_before_an_error_are_a_block():
    def items():
        yield from (1, 2)
        raise ValueError("no third")

    blocks = divide(items(), lambda _: (1, 0))
    assert next(blocks) == [1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(blocks)


def test_results_come_in_order_as_soon_as_those_before_them_are_there():
    def parts():
        for places, is_last in (((1, 3), False), ((0,), False), ((2,), True), ((0,), True)):
            given.append(places)
            yield Answered(None, {place: place for place in places}, is_last)

    given = []
    results = in_order(parts())
    seen = [(next(results), len(given)) for _ in range(5)]
    assert seen == [(0, 2), (1, 2), (2, 3), (3, 3), (0, 4)]


def test_scores_of_captions_that_share_a_row_are_those_of_captions_alone(scorer):
    colors = [COLORS[number % 4] for number in range(20)]
    shared, alone = [], []
    together = score(scorer, ask(colors), on_pass=shared.append)
    apart = score(scorer, ask(colors, alone=True), batch_tokens=1, on_pass=alone.append)
    assert [one.caption.id for one in together] == [str(number) for number in range(20)]
    for one, other in zip(together, apart, strict=True):
        same(one, other)
    of_shared, of_alone = sum(shared, Cost()), sum(alone, Cost())
    assert (of_shared.image_encodings, of_alone.image_encodings) == (4, 20)
    assert of_shared.sentences == of_alone.sentences == 40
    n_prompt = len(scorer.encoder.encode(picture("red"), [caption(0)], targets=False).prompt)
    assert of_alone.tokens - of_shared.tokens == 16 * n_prompt


def test_a_block_has_the_same_scores_to_the_bit_whatever_is_before_it(scorer):
    first, second = ask(COLORS * 3), ask(COLORS[::-1] * 2)
    both, alone = score(scorer, first, second), score(scorer, second)
    for one, other in zip(both[12:], alone, strict=True):
        assert one.sentence_logit == other.sentence_logit
        np.testing.assert_array_equal(one.token_logit, other.token_logit)


def test_lines_of_similar_length_share_a_pass(scorer):
    sizes, cost = [], []
    hook = scorer.detector.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].size))
    lengths = [0, 40] * 4
    asked = [Asked(caption(n, words), n, partial(picture, "red")) for n, words in enumerate(lengths)]
    longest = max(len(scorer.encoder.encode(picture("red"), [one.caption], targets=False).prompt) for one in asked)
    try:
        score(scorer, asked, batch_tokens=4 * (longest + 60), on_pass=cost.append)
    finally:
        hook.remove()
    assert len(sizes) > 1
    assert sum(sizes) == sum(cost, Cost()).tokens  # no padding at all


def test_errors_are_in_the_places_of_the_captions_of_their_images(scorer):
    def load(color):
        if color == "green":
            raise DataError("green is gone")
        return picture(color)

    results = score(scorer, ask(["red", "green", "blue", "green", "red"], load=load), ask(["green"], load=load))
    assert [str(one) if isinstance(one, DataError) else one.caption.id for one in results] == [
        *("0", "green is gone", "2", "green is gone", "4"),
        "green is gone",
    ]
    assert results[1].__traceback__ is None  # which would keep the picture


@pytest.fixture
def spoiled(scorer):
    """Let the detector give what is no number for captions of one id."""

    def spoil(_, inputs, logits):
        (batch,) = inputs
        bad = torch.tensor([one.id == "2" for one in batch.captions]).repeat_interleave(
            torch.tensor(batch.sentences_per_caption)
        )
        return replace(logits, sentence=logits.sentence.masked_fill(bad, float("nan")))

    hook = scorer.detector.register_forward_hook(spoil)
    yield scorer
    hook.remove()


def test_scores_that_are_not_numbers_are_of_their_row_alone_where_asked_for(spoiled):
    results = score(spoiled, ask(["red", "blue", "green", "green", "white"]), is_failure_apart=True)
    assert [isinstance(one, ModelError) for one in results] == [False, False, True, True, False]
    assert results[4].caption.id == "4"
    with pytest.raises(ModelError, match="not finite"):
        score(spoiled, ask(["red", "blue", "green"]))


def test_images_of_two_parts_at_most_are_in_memory(scorer, monkeypatch):
    decoded, encoded, most = [], [], {"decoded": 0, "encoded": 0}
    encode_whole = scorer.encoder.encode_whole

    def alive(references):
        return sum(reference() is not None for reference in references)

    def load(color):
        image = picture(color)
        decoded.append(weakref.ref(image))
        most["decoded"] = max(most["decoded"], alive(decoded))
        return image

    def encode(image, captions):
        row, room = encode_whole(image, captions)
        encoded.append(weakref.ref(row.image_inputs["pixel_values"]))
        most["encoded"] = max(most["encoded"], alive(encoded))
        return row, room

    monkeypatch.setattr(scorer.encoder, "encode_whole", encode)
    row = scorer.encoder.encode(picture("red"), [caption(0)], targets=False)
    n_bytes = sum(tensor.nbytes for tensor in row.image_inputs.values())
    monkeypatch.setattr(scorer_module, "MOST_BYTES", 4 * n_bytes)
    blocks = [[Asked(caption(n), n, partial(load, COLORS[n % 4])) for n in range(30)] for _ in range(2)]
    results = score(scorer, *blocks, batch_tokens=1)
    assert len(results) == len(decoded) == 60
    assert most["decoded"] <= 2
    assert 4 <= most["encoded"] <= 2 * 4 + 1  # and the one that is being made


def test_a_part_holds_no_less_than_a_pass(scorer, monkeypatch):
    monkeypatch.setattr(scorer_module, "MOST_BYTES", 1)
    passes = []
    score(scorer, ask(COLORS), batch_tokens=100_000, on_pass=passes.append)
    assert len(passes) == 1


def test_who_takes_no_more_results_leaves_no_thread(scorer):
    parts = scorer.score_blocks([ask(COLORS)] * 3, lambda asked: (None, asked), batch_tokens=1)
    results = in_order(parts)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("halspan-ahead")]
