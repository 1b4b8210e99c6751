"""The LightningDataModule: the rows of each optimizer step, by device and from any first step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from halspan.core.captions import Sentence
from halspan.data.rows import Row, batches
from halspan.models.inputs.batch import Batch
from halspan.training.interruption import leave_signals_to_parent
from halspan.training.run_spec import TrainerSpec

Encode = Callable[[Sequence[Row]], Batch]


class RowData(pl.LightningDataModule):
    """Training and validation rows as batches.

    The rows of optimizer step s depend on (seed, s) alone, not on the number of devices, workers and passes. A resumed
    run asks for the steps that are left.

    Args:
        train: Training rows.
        val: Validation rows.
        encode: Function that reads the rows' images and makes one batch of them.
        spec: Batch sizes and workers.
        seed: Seed of the order of rows.
    """

    def __init__(
        self, *, train: Sequence[Row], val: Sequence[Row], encode: Encode, spec: TrainerSpec, seed: int
    ) -> None:
        super().__init__()
        self._train = train
        self._val = val
        self._encode = encode
        self._spec = spec
        self._seed = seed
        self._first_step = 0

    @property
    def total_steps(self) -> int:
        """Return the optimizer steps of the whole run."""
        return self._spec.total_steps(len(self._train))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of optimizer steps taken."""
        return {"step": self._trainer().global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the steps that were taken."""
        self._first_step = state_dict["step"]

    def train_dataloader(self) -> DataLoader[tuple[Batch, ...]]:
        """Return this device's share of each optimizer step, as one batch per pass."""
        trainer = self._trainer()
        steps = StepRows(
            self._train,
            rows_per_batch=self._spec.rows_per_batch,
            seed=self._seed,
            steps=range(self._first_step, self.total_steps),
            share=slice(trainer.global_rank, None, trainer.world_size),
        )
        return self._loader(_Passes(self._train, self._encode, self._spec.rows_per_pass), steps)

    def val_dataloader(self) -> DataLoader[tuple[Batch, ...]]:
        """Return this device's share of the validation rows, one pass at a time."""
        trainer = self._trainer()
        size = self._spec.rows_per_pass or -(-self._spec.rows_per_batch // trainer.world_size)
        mine = range(trainer.global_rank, len(self._val), trainer.world_size)
        passes = [list(mine[start : start + size]) for start in range(0, len(mine), size)] or [[]]
        return self._loader(_Passes(self._val, self._encode, None), passes)

    def _loader(
        self, dataset: Dataset[tuple[Batch, ...]], indices: Sampler[list[int]] | Sequence[list[int]]
    ) -> DataLoader[tuple[Batch, ...]]:
        return DataLoader(
            dataset,
            sampler=indices,
            batch_size=None,  # an index is the list of rows in a whole step
            num_workers=self._spec.workers,
            worker_init_fn=leave_signals_to_parent,
            pin_memory=self._spec.accelerator == "gpu",
            generator=torch.Generator(),  # a loader draws a seed at its start: not from the run's generator
        )

    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("a RowData works inside a Trainer: call trainer.fit(module, datamodule)")
        return self.trainer


class StepRows(Sampler[list[int]]):
    """The rows of each optimizer step on one device: a pure function of seed and step.

    Args:
        rows: Rows to choose from.
        rows_per_batch: Number of rows in a global batch.
        seed: Seed of the order of rows, which differs from epoch to epoch.
        steps: Steps to yield; those before its start are already taken.
        share: This device's part of the rows in a global batch.
    """

    def __init__(self, rows: Sequence[Row], *, rows_per_batch: int, seed: int, steps: range, share: slice) -> None:
        self._rows = rows
        self._rows_per_batch = rows_per_batch
        self._seed = seed
        self._steps = steps
        self._share = share

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of each step; empty if a short batch leaves this device no rows."""
        order = lru_cache(1)(partial(batches, self._rows, rows_per_batch=self._rows_per_batch, seed=self._seed))
        steps_per_epoch = -(-len(self._rows) // self._rows_per_batch)
        for step in self._steps:
            epoch, position = divmod(step, steps_per_epoch)
            yield order(epoch=epoch)[position][self._share]

    def __len__(self) -> int:
        """Return all steps of the run, including those taken, because Lightning counts from the run's beginning."""
        return self._steps.stop


class _Passes(Dataset[tuple[Batch, ...]]):
    """Batches of at most `rows_per_pass` rows, made from lists of rows."""

    def __init__(self, rows: Sequence[Row], encode: Encode, rows_per_pass: int | None) -> None:
        self._rows = rows
        self._encode = encode
        self._rows_per_pass = rows_per_pass

    def __getitem__(self, indices: Sequence[int]) -> tuple[Batch, ...]:
        # All devices take every step together; one without rows takes part with a row that does not count.
        rows = [self._rows[index] for index in indices] or [_without_labels(self._rows[0])]
        size = self._rows_per_pass or len(rows)
        return tuple(self._encode(rows[start : start + size]) for start in range(0, len(rows), size))


def _without_labels(row: Row) -> Row:
    """Return the row's first caption without annotation."""
    caption = row.captions[0]
    sentences = tuple(Sentence(sentence.start, sentence.end) for sentence in caption.sentences)
    return replace(row, captions=(replace(caption, sentences=sentences, spans=()),))
