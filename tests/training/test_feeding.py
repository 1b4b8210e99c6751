"""The way in: whoever reads images and encodes rows, training gets the same batches in the same order."""

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from small_runs import configuration, small_overrides
from torch import Tensor

from halspan.app.configuration import configure
from halspan.data.controls import read_image
from halspan.data.rows import Row, group_rows
from halspan.models.inputs.batch import Batch
from halspan.testing.tiny_detectors import build
from halspan.training.datamodule import RowData
from halspan.training.encoding import EncodeRows

TOKENS = 600


@pytest.fixture(scope="module")
def rows(corpus: Path) -> list[Row]:
    loaded = configure.build(configuration(*small_overrides(corpus)).data, "data").load()
    return group_rows(loaded, loaded.captions, max_captions=8)


def data_of(rows: list[Row], corpus: Path, *, workers: int, accelerator: str = "cpu") -> RowData:
    """Make training data in a trainer, as `fit` does."""
    _, encoder = build("llava")
    encode = EncodeRows(encoder, partial(read_image, blank=False))
    spec = configure.build(configuration(*small_overrides(corpus)).trainer, "trainer")
    data = RowData(
        train=rows[4:],
        val=rows[:4],
        lengths=(encode.measure(rows[4:]), encode.measure(rows[:4])),
        encode=encode,
        spec=replace(spec, workers=workers, accelerator=accelerator),
        tokens_per_pass=TOKENS,
        seed=3,
    )
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    return data


@pytest.fixture
def start_method(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start processes as the test asks for; the loader takes Python's own way, which differs between platforms."""
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method(request.param, force=True)
    yield
    torch.multiprocessing.set_start_method(before, force=True)


def assert_same(left: Any, right: Any) -> None:
    """Compare what a batch holds, to the last bit."""
    assert type(left) is type(right)
    if isinstance(left, Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, np.ndarray):
        assert np.array_equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for name in left:
            assert_same(left[name], right[name])
    elif isinstance(left, tuple) and left and isinstance(left[0], np.ndarray):
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif hasattr(left, "__dataclass_fields__") and not isinstance(left, Batch):
        for field in fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name))
    else:
        assert left == right


def assert_same_steps(left: list[tuple[Batch, ...]], right: list[tuple[Batch, ...]]) -> None:
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        assert len(one) == len(other) > 0
        for mine, theirs in zip(one, other, strict=True):
            for field in fields(Batch):
                if field.name != "image_seconds":
                    assert_same(getattr(mine, field.name), getattr(theirs, field.name))


SPAWNED = pytest.mark.slow  # each process imports torch and transformers again
WAYS = [
    pytest.param("fork", 1),
    pytest.param("fork", 2),
    pytest.param("spawn", 1, marks=SPAWNED),
    pytest.param("spawn", 2, marks=SPAWNED),
]


@pytest.mark.parametrize(("start_method", "workers"), WAYS, indirect=["start_method"])
@pytest.mark.usefixtures("start_method")
def test_batches_are_those_of_the_training_process_whatever_workers_make_them(rows, corpus, workers):
    alone, helped = (data_of(rows, corpus, workers=number) for number in (0, workers))
    assert any(len(passes) > 1 for passes in alone.train_dataloader())
    assert_same_steps(list(helped.train_dataloader()), list(alone.train_dataloader()))
    assert_same_steps(list(helped.val_dataloader()), list(alone.val_dataloader()))


@pytest.mark.parametrize(("start_method", "workers"), WAYS[1:3], indirect=["start_method"])
@pytest.mark.usefixtures("start_method")
def test_smaller_passes_reach_workers_that_are_at_work(rows, corpus, workers):
    data = data_of(rows, corpus, workers=workers)
    steps = iter(data.train_dataloader())
    largest = max(batch.size for batch in next(steps))
    smaller = data.smaller_passes(0, tokens_per_pass=largest // 2)
    assert max(batch.size for batch in smaller) <= largest // 2
    later = [max(batch.size for batch in passes) for passes in steps]
    assert max(later[2 * workers :]) <= largest // 2  # a worker has made two steps ahead by then, with the old size


def test_pages_are_locked_for_a_gpu_alone(rows, corpus):
    for accelerator in ("cpu", "gpu"):
        data = data_of(rows, corpus, workers=0, accelerator=accelerator)
        loaders = (data.train_dataloader(), data.val_dataloader())
        assert [loader.pin_memory for loader in loaders] == [accelerator == "gpu"] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pages are locked for a GPU alone")
def test_a_batch_is_locked_as_a_whole(rows, corpus):
    data = data_of(rows, corpus, workers=1, accelerator="gpu")
    for batch in next(iter(data.train_dataloader())):
        assert all(tensor.is_pinned() for tensor in (*batch.inputs.values(), batch.segments, batch.targets.token))
