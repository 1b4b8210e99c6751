from pathlib import Path

import pytest
import torch

from halspan.core.captions import Caption, Sentence, Span
from halspan.data.rows import Row
from halspan.training.datamodule import RowData, StepRows


def rows(n):
    return [
        Row(
            Path(f"{i}.png"),
            (
                Caption(
                    f"c{i}", f"{i}.png", "g", "image_to_text", "A dog.", (Sentence(0, 6, "incorrect"),), (Span(2, 5),)
                ),
            ),
        )
        for i in range(n)
    ]


def steps(first=0, last=9, seed=1, lengths=(5,) * 10, **device):
    return list(StepRows(lengths, rows_per_batch=4, seed=seed, steps=range(first, last), **device))


def test_each_epoch_takes_every_row_once_in_another_order():
    order = steps()  # 4 + 4 + 2 rows: three steps an epoch
    epochs = [[row for batch in order[start : start + 3] for row in batch] for start in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("first", range(9))
def test_a_resumed_run_sees_what_is_left_of_the_same_order(first):
    assert steps(first) == steps()[first:]


def test_the_order_depends_on_the_seed():
    assert steps(seed=1) != steps(seed=2)


@pytest.mark.parametrize("devices", [2, 3, 5])
def test_devices_share_the_rows_of_each_global_batch(devices):
    lengths = [7, 3, 9, 30, 2, 2, 8, 4, 1, 6]
    whole = steps(lengths=lengths)
    shares = zip(*(steps(lengths=lengths, device=device, devices=devices) for device in range(devices)), strict=True)
    assert [sorted(row for part in parts for row in part) for parts in shares] == [sorted(batch) for batch in whole]


def test_the_length_counts_all_steps_of_the_run():
    assert len(StepRows([1] * 10, rows_per_batch=4, seed=1, steps=range(5, 9))) == 9


def test_a_device_without_rows_takes_part_with_one_that_counts_nowhere():
    from halspan.training.datamodule import _Passes

    (row,) = _Passes(rows(2), encode=lambda rows, tokens_per_pass: rows, limit=torch.tensor(9))[[]]
    assert [sentence.target for sentence in row.captions[0].sentences] == [None]
    assert row.captions[0].spans == ()


def test_it_works_inside_a_trainer_only():
    data = RowData(train=rows(1), val=rows(1), lengths=([5], [5]), encode=tuple, spec=None, tokens_per_pass=9, seed=0)
    with pytest.raises(RuntimeError, match="inside a Trainer"):
        data.val_dataloader()
