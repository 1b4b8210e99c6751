"""When a checkpoint is written, and how: whole or not at all."""

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from halspan.core.files import replacing
from halspan.training.rundir import RunDirectory


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there in one step, on the same file system."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`."""
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class Checkpoints(pl.Callback):
    """Ends training after its last step, and keeps `last.ckpt` and `best.ckpt`.

    A step that is followed by a validation is saved after it, so that a resumed run never skips or repeats one.

    Args:
        run: where the checkpoints go.
        every_steps: optimiser steps between two `last.ckpt`.
        val_every_steps: optimiser steps between two validations.
        total_steps: optimiser steps of the whole run.
    """

    def __init__(self, run: RunDirectory, *, every_steps: int, val_every_steps: int, total_steps: int) -> None:
        self._run = run
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
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after the last step; save a step that no validation follows, when it is time."""
        step = trainer.global_step
        if step >= self._total_steps:
            trainer.should_stop = True  # Lightning validates once more before it stops
        elif step % self._every_steps == 0 and step % self._val_every_steps != 0:
            trainer.save_checkpoint(self._run.last, weights_only=False)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights with the lowest validation loss, and the newest."""
        loss = float(trainer.callback_metrics["val/loss"])
        if loss < self._best_loss:
            self._best_loss = loss
            trainer.save_checkpoint(self._run.best, weights_only=False)
        trainer.save_checkpoint(self._run.last, weights_only=False)
