"""Tests of rows and their order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.captions import Caption, Sentence
from halspan.data.corpus import Corpus
from halspan.data.rows import POOL_BATCHES, Row, batches, group_rows, share_out


def caption(id_: str, image: str, text: str = "ab") -> Caption:
    return Caption(id_, image, "a", "image_to_text", text, (Sentence(0, 2, "correct"),))


def test_captions_of_one_image_share_a_row(tmp_path):
    captions = [caption("1", "a.png"), caption("2", "b.png"), caption("3", "a.png")]
    corpus = Corpus(name="test", captions=tuple(captions), image_root=tmp_path)
    rows = group_rows(corpus, captions, max_captions=6)
    assert rows == [
        Row(tmp_path / "a.png", (captions[0], captions[2])),
        Row(tmp_path / "b.png", (captions[1],)),
    ]


@pytest.mark.parametrize(("max_captions", "sizes"), [(1, [1] * 7), (3, [2, 2, 3]), (6, [3, 4]), (7, [7]), (9, [7])])
def test_more_captions_than_a_row_holds_are_spread_evenly(tmp_path, max_captions, sizes):
    captions = tuple(caption(str(index), "a.png") for index in range(7))
    corpus = Corpus(name="test", captions=captions, image_root=tmp_path)
    rows = group_rows(corpus, captions, max_captions=max_captions)
    assert [len(row.captions) for row in rows] == sizes
    assert tuple(caption for row in rows for caption in row.captions) == captions


@given(
    lengths=st.lists(st.integers(2, 90), max_size=70),
    rows_per_batch=st.integers(1, 9),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 9),
)
def test_an_epoch_takes_every_row_once_and_is_a_function_of_seed_and_epoch(lengths, rows_per_batch, seed, epoch):
    order = batches(lengths, rows_per_batch=rows_per_batch, seed=seed, epoch=epoch)
    assert order == batches(lengths, rows_per_batch=rows_per_batch, seed=seed, epoch=epoch)
    assert sorted(position for batch in order for position in batch) == list(range(len(lengths)))
    assert sum(len(batch) != rows_per_batch for batch in order) <= 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_another_seed_or_epoch_is_another_order(change):
    arguments = {"rows_per_batch": 4, "seed": 0, "epoch": 0}
    assert batches([2] * 20, **arguments) != batches([2] * 20, **arguments | change)


def test_rows_of_similar_length_share_a_batch():
    lengths = range(2, 2 + 4 * POOL_BATCHES)  # one pool: sorted as a whole, so a batch of 4 spans 4 consecutive lengths
    for batch in batches(lengths, rows_per_batch=4, seed=0, epoch=0):
        chosen = [lengths[position] for position in batch]
        assert max(chosen) - min(chosen) == 3


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=30), devices=st.integers(1, 5))
def test_devices_share_a_batch_with_nearly_equal_work(lengths, devices):
    shares = share_out(range(len(lengths)), lengths, devices=devices)
    assert sorted(row for share in shares for row in share) == list(range(len(lengths)))
    work = [sum(lengths[row] for row in share) for share in shares]
    # the last row that a device got went to the one with the least work, so no device is ahead by more than a row
    assert max(work) - min(work) <= max(lengths)
