import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.captions import Caption, Sentence
from halspan.models.inputs.batch import Batch, EncodedCaption, EncodedRow, collate, pack
from halspan.models.inputs.context import NO_BLOCK, PADDING, PROMPT

P, X, N = PROMPT, PADDING, NO_BLOCK


def encoded(first_id: int, token_sentence: list[int], n_sentences: int) -> EncodedCaption:
    n = len(token_sentence)
    caption = Caption("1", "i", "g", "image_to_text", "abcdefgh", (Sentence(0, 8),))
    return EncodedCaption(
        caption=caption,
        ids=np.arange(first_id, first_id + n),
        offsets=np.stack([np.arange(n), np.arange(n) + 1], axis=1),
        token_sentence=np.array(token_sentence, dtype=np.int64),
        unscored=(None,) * n_sentences,
        targets=None,
    )


def row(n_prompt: int, *captions: EncodedCaption, pixel: float = 0.0) -> EncodedRow:
    prompt = torch.arange(100, 100 + n_prompt)
    return EncodedRow(
        prompt=prompt,
        token_inputs={"token_type_ids": torch.ones_like(prompt)},
        image_inputs={"pixel_values": torch.full((1, 1), pixel)},
        captions=captions,
    )


A, B = encoded(1, [0, 0, 1], 2), encoded(11, [-1, 0], 1)


def lay_out(context="causal", pack_tokens=99) -> Batch:
    return collate([row(2, A, B), row(1, B)], context=context, pack_tokens=pack_tokens)


def test_captions_stand_behind_the_prompt_each_at_the_positions_after_it():
    batch = lay_out()
    assert batch.inputs["input_ids"].tolist() == [[100, 101, 1, 2, 3, 11, 12], [100, 11, 12, 0, 0, 0, 0]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3], [0, 1, 2, 0, 0, 0, 0]]
    assert batch.segments.tolist() == [[P, P, 0, 0, 0, 1, 1], [P, 0, 0, X, X, X, X]]
    assert batch.inputs["token_type_ids"].tolist() == [[1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]


def test_states_are_read_where_the_captions_tokens_are():
    batch = lay_out()
    ids = batch.inputs["input_ids"][batch.token_row, batch.token_position]
    assert ids.tolist() == [1, 2, 3, 11, 12, 11, 12]
    assert batch.tokens_per_caption == [3, 2, 2]
    assert batch.sentences_per_caption == [2, 1, 1]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("causal", [1, 2, 3, 1, 5, 0, 1]),  # the one before; before a caption's first, the prompt's last
        ("echo", [4, 5, 6, 9, 10, 2, 3]),  # before the second copy's first, the first copy's last
        ("bidirectional", [2, 3, 4, 5, 6, 1, 2]),  # its own
        ("bidirectional_sentence", [2, 3, 4, 5, 6, 1, 2]),
    ],
)
def test_each_token_is_expected_by_the_state_that_would_predict_it(context, expected):
    assert lay_out(context).token_expectation.tolist() == expected


def test_sentences_list_their_tokens_counted_through_the_batch():
    assert lay_out().sentence_tokens.tolist() == [[0, 1], [2, -1], [4, -1], [6, -1]]


def test_an_echoed_caption_stands_there_twice_and_its_second_copy_is_read():
    batch = lay_out("echo")
    assert batch.inputs["input_ids"][1].tolist()[:5] == [100, 11, 12, 11, 12]
    assert batch.inputs["position_ids"][1].tolist()[:5] == [0, 1, 2, 3, 4]
    assert batch.segments[1].tolist()[:6] == [P, 0, 0, 0, 0, X]
    assert batch.token_position.tolist() == [5, 6, 7, 10, 11, 3, 4]


@pytest.mark.parametrize(
    ("context", "blocks"),
    [
        ("causal", [N, N, N, N, N, N, N]),
        ("bidirectional", [N, N, 0, 0, 0, 1, 1]),
        ("bidirectional_sentence", [N, N, 0, 0, 1, N, 2]),
    ],
)
def test_the_context_says_which_tokens_are_a_block(context, blocks):
    assert lay_out(context).blocks[0].tolist() == blocks


def test_captions_that_do_not_fit_one_line_repeat_prompt_and_image():
    batch = collate([row(2, A, B, pixel=7), row(1, B, pixel=8)], context="causal", pack_tokens=6)
    assert batch.inputs["input_ids"].tolist() == [[100, 101, 1, 2, 3], [100, 101, 11, 12, 0], [100, 11, 12, 0, 0]]
    assert batch.inputs["pixel_values"].flatten().tolist() == [7, 7, 8]
    assert batch.token_row.tolist() == [0, 0, 0, 1, 1, 2, 2]


@given(st.lists(st.integers(0, 20), min_size=1), st.integers(-3, 25))
def test_packing_uses_each_item_once_and_overfills_only_for_items_that_are_too_long(lengths, capacity):
    bins = pack(lengths, capacity)
    assert sorted(item for items in bins for item in items) == list(range(len(lengths)))
    assert all(len(items) == 1 or sum(lengths[item] for item in items) <= capacity for items in bins)


def test_packing_puts_the_longest_first_into_the_first_bin_with_room():
    assert pack([3, 6, 4, 2], 8) == [[1, 3], [0, 2]]


def test_a_caption_without_tokens_keeps_its_place():
    nothing = encoded(1, [], 2)
    batch = collate([row(1, nothing)], context="echo", pack_tokens=9)
    assert batch.inputs["input_ids"].tolist() == [[100]]
    assert batch.sentence_tokens.tolist() == [[-1], [-1]]
    assert batch.tokens_per_caption == [0]


def test_a_batch_moves_as_a_whole():
    moved = lay_out().to("meta")
    assert {tensor.device.type for tensor in (*moved.inputs.values(), moved.segments, moved.sentence_tokens)} == {
        "meta"
    }
    assert moved.captions == lay_out().captions
