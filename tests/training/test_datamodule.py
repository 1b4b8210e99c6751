from pathlib import Path

import pytest

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


def steps(first=0, last=9, share=slice(None), seed=1, n=10):
    return list(StepRows(rows(n), rows_per_batch=4, seed=seed, steps=range(first, last), share=share))


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


def test_devices_share_the_rows_of_each_global_batch():
    whole, first, second = (steps(share=share) for share in (slice(None), slice(0, None, 2), slice(1, None, 2)))
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in whole]


def test_the_length_counts_all_steps_of_the_run():
    assert len(StepRows(rows(10), rows_per_batch=4, seed=1, steps=range(5, 9), share=slice(None))) == 9


def test_a_device_without_rows_takes_part_with_one_that_counts_nowhere():
    from halspan.training.datamodule import _Passes

    ((row,),) = _Passes(rows(2), encode=tuple, rows_per_pass=None)[[]]
    assert [sentence.target for sentence in row.captions[0].sentences] == [None]
    assert row.captions[0].spans == ()


def test_a_batch_is_cut_into_passes():
    from halspan.training.datamodule import _Passes

    passes = _Passes(rows(5), encode=len, rows_per_pass=2)[range(5)]
    assert passes == (2, 2, 1)


def test_it_works_inside_a_trainer_only():
    with pytest.raises(RuntimeError, match="inside a Trainer"):
        RowData(train=rows(1), val=rows(1), encode=tuple, spec=None, seed=0).train_dataloader()
