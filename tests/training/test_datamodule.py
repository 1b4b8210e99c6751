from pathlib import Path

import numpy as np
import pytest
import torch

from halspan.core.captions import Caption, Sentence, Span
from halspan.data.rows import Row, batches
from halspan.models.inputs.packing import fill
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


SENTENCES_AND_WORDS = {  # means per image and per sentence: AlignBench, table 2 (arXiv 2511.20515)
    "CogVLM": (3.7, 15.9),
    "GPT4o": (6.4, 14.7),
    "ShareGPT": (8.8, 18.3),
    "Llama-4": (7.4, 19.4),
    "LLaVA-1.6": (6.9, 17.4),
    "Qwen-2": (7.9, 17.3),
}


def lines_as_long_as_alignbench(prompt: int, n_images: int = 1500) -> list[int]:
    """Draw the tokens of lines: a prompt, and a caption of each captioner, or one about a painted image."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(n_images):
        painted = number % 2
        means = [(2.4 + number % 2, 22.7)] if painted else SENTENCES_AND_WORDS.values()
        words = [random.normal(mean, 6, 1 + random.poisson(n - 1)).clip(3).sum() for n, mean in means]
        lines.append(prompt + int(1.3 * sum(words)))
    return lines


@pytest.mark.parametrize("prompt", [64, 616, 1500])
@pytest.mark.parametrize("tokens_per_pass", [4096, 16384, 10**9])
def test_padding_is_below_five_percent_at_the_lengths_of_alignbench(prompt, tokens_per_pass):
    lines = lines_as_long_as_alignbench(prompt)
    n_tokens = n_padded = 0
    for step in batches(lines, rows_per_batch=16, seed=0, epoch=0):
        lengths = [lines[row] for row in step]
        for members in fill(lengths, tokens_per_pass):
            n_tokens += sum(lengths[line] for line in members)
            n_padded += max(lengths[line] for line in members) * len(members)
    assert n_tokens == sum(lines)
    assert 1 - n_tokens / n_padded < 0.05
