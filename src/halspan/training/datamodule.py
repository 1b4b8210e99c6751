"""The LightningDataModule: the rows of each optimizer step, by device and from any first step."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from halspan.core.captions import Caption, Sentence
from halspan.data.rows import Row, batches, share_out
from halspan.models.inputs.batch import Batch
from halspan.models.plan.floor import Operations
from halspan.training.interruption import leave_signals_to_parent
from halspan.training.run_spec import TrainerSpec

WORKER_SECONDS = 300
"""Seconds after which a process that reads data and gives nothing ends training."""


class Encode(Protocol):
    """Function that reads the images of rows and makes batches of at most some number of tokens of them."""

    def __call__(self, rows: Sequence[Row], *, tokens_per_pass: int) -> tuple[Batch, ...]:
        """Encode rows."""
        ...

    def count_floor(self, rows: Sequence[Row], *, kept: Collection[Caption]) -> Operations:
        """Count the fewest operations of a training step on rows."""
        ...


class RowData(pl.LightningDataModule):
    """Training and validation rows as batches.

    The rows of optimizer step s depend on (seed, s) alone, not on the number of devices, workers and passes. A resumed
    run asks for the steps that are left.

    Args:
        train: Training rows.
        val: Validation rows.
        lengths: Length of each training row, and of each validation row, in tokens.
        encode: Function that makes batches of rows.
        spec: Batch sizes and workers.
        tokens_per_pass: Most tokens of one pass, padding included.
        seed: Seed of the order of rows.
    """

    def __init__(
        self,
        *,
        train: Sequence[Row],
        val: Sequence[Row],
        lengths: tuple[Sequence[int], Sequence[int]],
        encode: Encode,
        spec: TrainerSpec,
        tokens_per_pass: int,
        seed: int,
    ) -> None:
        super().__init__()
        self._train = train
        self._val = val
        self._lengths = lengths
        self._encode = encode
        self._spec = spec
        self._seed = seed
        self._first_step = 0
        # shared with workers, which read it before each step
        self._limit: Tensor = torch.tensor(tokens_per_pass).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def total_steps(self) -> int:
        """Return the optimizer steps of the whole run."""
        return self._spec.total_steps(len(self._train))

    @property
    def n_rows(self) -> int:
        """Return the number of training rows."""
        return len(self._train)

    @property
    def tokens_per_pass(self) -> int:
        """Return the most tokens of a pass; memory may have been too short for what was asked."""
        return int(self._limit)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of optimizer steps taken, and the size of passes."""
        return {"step": self._trainer().global_step, "tokens_per_pass": self.tokens_per_pass}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the steps that were taken."""
        self._first_step = state_dict["step"]
        if self._spec.tokens_per_pass == "auto":  # free memory may differ, the sums of gradients should not
            self._limit.fill_(state_dict.get("tokens_per_pass", self.tokens_per_pass))

    def train_dataloader(self) -> DataLoader[tuple[Batch, ...]]:
        """Return this device's share of each optimizer step, as one batch per pass."""
        return self._loader(self._passes(self._train), self._steps(range(self._first_step, self.total_steps)))

    def val_dataloader(self) -> DataLoader[tuple[Batch, ...]]:
        """Return this device's share of the validation rows, rows of similar length together."""
        trainer, lengths = self._trainer(), self._lengths[1]
        order = sorted(range(len(self._val)), key=lambda row: -lengths[row])
        mine = order[trainer.global_rank :: trainer.world_size]
        size = self._spec.rows_per_batch
        together = [mine[start : start + size] for start in range(0, len(mine), size)] or [[]]
        return self._loader(self._passes(self._val), together)

    def count_floor(self, step: int, *, kept: Collection[Caption]) -> Operations:
        """Count the fewest operations that this device's rows of a step need.

        Args:
            step: Number of optimizer steps before this one.
            kept: Captions of images whose features were kept.
        """
        rows = [self._train[row] for row in next(iter(self._steps(range(step, step + 1))))]
        return self._encode.count_floor(rows, kept=kept)

    def smaller_passes(self, step: int, *, tokens_per_pass: int) -> tuple[Batch, ...]:
        """Make the passes of a step again with fewer tokens each, and those of all later steps.

        Args:
            step: Number of optimizer steps before this one.
            tokens_per_pass: Most tokens of one pass, padding included.
        """
        self._limit.fill_(tokens_per_pass)
        return self._passes(self._train)[next(iter(self._steps(range(step, step + 1))))]

    def _steps(self, steps: range) -> "StepRows":
        trainer = self._trainer()
        return StepRows(
            self._lengths[0],
            rows_per_batch=self._spec.rows_per_batch,
            seed=self._seed,
            steps=steps,
            device=trainer.global_rank,
            devices=trainer.world_size,
        )

    def _passes(self, rows: Sequence[Row]) -> "_Passes":
        return _Passes(rows, self._encode, self._limit)

    def _loader(
        self, dataset: Dataset[tuple[Batch, ...]], indices: Sampler[list[int]] | Sequence[list[int]]
    ) -> DataLoader[tuple[Batch, ...]]:
        return DataLoader(
            dataset,
            sampler=indices,
            batch_size=None,  # an index is the list of rows in a whole step
            num_workers=self._spec.workers,
            timeout=WORKER_SECONDS if self._spec.workers else 0,
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
        lengths: Length of each row, in tokens.
        rows_per_batch: Number of rows in a global batch.
        seed: Seed of the order of rows, which differs from epoch to epoch.
        steps: Steps to yield; those before its start are already taken.
        device: 0-based number of this device.
        devices: Number of devices that share each global batch.
    """

    def __init__(
        self, lengths: Sequence[int], *, rows_per_batch: int, seed: int, steps: range, device: int = 0, devices: int = 1
    ) -> None:
        self._lengths = lengths
        self._rows_per_batch = rows_per_batch
        self._seed = seed
        self._steps = steps
        self._device = device
        self._devices = devices

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of each step; empty if a short batch leaves this device no rows."""
        order = lru_cache(1)(partial(batches, self._lengths, rows_per_batch=self._rows_per_batch, seed=self._seed))
        steps_per_epoch = -(-len(self._lengths) // self._rows_per_batch)
        for step in self._steps:
            epoch, position = divmod(step, steps_per_epoch)
            yield share_out(order(epoch=epoch)[position], self._lengths, devices=self._devices)[self._device]

    def __len__(self) -> int:
        """Return all steps of the run, including those taken, because Lightning counts from the run's beginning."""
        return self._steps.stop


class _Passes(Dataset[tuple[Batch, ...]]):
    """Batches of at most `limit` tokens each, made from lists of rows."""

    def __init__(self, rows: Sequence[Row], encode: Encode, limit: Int[Tensor, ""]) -> None:
        self._rows = rows
        self._encode = encode
        self._limit = limit

    def __getitem__(self, indices: Sequence[int]) -> tuple[Batch, ...]:
        # All devices take every step together; one without rows takes part with a row that does not count.
        rows = [self._rows[index] for index in indices] or [_without_labels(self._rows[0])]
        return self._encode(rows, tokens_per_pass=int(self._limit))


def _without_labels(row: Row) -> Row:
    """Return the row's first caption without annotation."""
    caption = row.captions[0]
    sentences = tuple(Sentence(sentence.start, sentence.end) for sentence in caption.sentences)
    return replace(row, captions=(replace(caption, sentences=sentences, spans=()),))
