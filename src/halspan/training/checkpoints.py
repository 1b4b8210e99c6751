"""When a checkpoint is written, and how: whole or not at all."""

import logging
import math
import os
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from zipfile import ZipFile

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor
from typing_extensions import override

from halspan.core.errors import ModelError
from halspan.core.files import open_regular, replacing
from halspan.training.interruption import Signals
from halspan.training.rundir import RunDirectory

logger = logging.getLogger(__name__)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint as data: nothing in it is run, and it takes no more room than its file.

    Raises:
        ModelError: it is something else, or damaged.
    """
    try:
        with open_regular(path) as file:
            _check_archive(file)
            file.seek(0)
            checkpoint: Any = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # hostile bytes make torch's unpickler raise nearly anything
        problem = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: is not a checkpoint that can be read ({problem}); restore it") from None
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ModelError(f"{path}: has no state_dict of tensors, so it is not a checkpoint of a run; restore it")
    return dict(checkpoint)


def _check_archive(file: BinaryIO) -> None:
    """Require that an archive is as large as what it holds: compressed or shared bytes fill the memory of a reader."""
    with ZipFile(file) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > (size := file.seek(0, os.SEEK_END)):
        raise ValueError(f"{size:,} bytes that claim to be {claimed:,}")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there in one step, on the same file system."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            OSError: the file cannot be written, such as for want of disk.
        """
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, about positions in the file, hides why
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


class Checkpoints(pl.Callback):
    """Ends training after its last step, or after one in which a signal came, and keeps `last.ckpt` and `best.ckpt`.

    A step that is followed by a validation is saved after it, so that a resumed run never skips or repeats one.

    Args:
        run: where the checkpoints go.
        signals: what may ask the process to end.
        every_steps: optimiser steps between two `last.ckpt`.
        val_every_steps: optimiser steps between two validations.
        total_steps: optimiser steps of the whole run.
    """

    def __init__(
        self, run: RunDirectory, *, signals: Signals, every_steps: int, val_every_steps: int, total_steps: int
    ) -> None:
        self._run = run
        self._signals = signals
        self._every_steps = every_steps
        self._val_every_steps = val_every_steps
        self._total_steps = total_steps
        self._best_loss = math.inf

    def state_dict(self) -> dict[str, Any]:
        """Keep the lowest validation loss so far, nats."""
        return {"best_loss": self._best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the lowest validation loss so far."""
        self._best_loss = state_dict["best_loss"]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let a signal wait for the end of a step; Lightning has put a handler of SIGTERM in the place of ours."""
        self._signals.wait()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after the last step; save a step that no validation follows, when it is time or a signal came."""
        step = trainer.global_step
        if step >= self._total_steps:
            trainer.should_stop = True  # Lightning validates once more before it stops
        elif step % self._val_every_steps != 0:
            must_end = self._must_end(trainer)
            if must_end or step % self._every_steps == 0:
                trainer.save_checkpoint(self._run.last, weights_only=False)
            if must_end:
                self._end(step)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights with the lowest validation loss, and the newest."""
        loss = float(trainer.callback_metrics["val/loss"])
        if loss < self._best_loss:
            self._best_loss = loss
            trainer.save_checkpoint(self._run.best, weights_only=False)
        trainer.save_checkpoint(self._run.last, weights_only=False)
        if trainer.global_step < self._total_steps and self._must_end(trainer):
            self._end(trainer.global_step)

    def _end(self, step: int) -> NoReturn:
        logger.info("last.ckpt has optimiser step %d of %d", step, self._total_steps)
        self._signals.end()

    def _must_end(self, trainer: pl.Trainer) -> bool:
        """Say whether a signal came, to any of the processes that train together: they end after the same step."""
        came = self._signals.number is not None
        return trainer.strategy.reduce_boolean_decision(came, all=False) if trainer.world_size > 1 else came
