"""Checkpoints: when they are written, and the atomic way in which each is written."""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from zipfile import ZipFile

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pydantic import NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import override

from halspan.core.checks import show
from halspan.core.errors import ModelError
from halspan.core.files import open_regular, replacing
from halspan.training.interruption import Signals
from halspan.training.rundir import RunDirectory

logger = logging.getLogger(__name__)

_COUNTS: dict[str, TypeAdapter[Any]] = {  # what a checkpoint may hold besides weights
    "global_step": TypeAdapter(NonNegativeInt | None),
    "total_steps": TypeAdapter(NonNegativeInt | None),
    "trained": TypeAdapter(dict[str, NonNegativeInt] | None),
    "halvings": TypeAdapter(NonNegativeInt | None),
    "validations_since_best": TypeAdapter(NonNegativeInt | None),
}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint as data: its code is not run, and it takes no more memory than its file.

    Raises:
        ModelError: The file is something else, or damaged: the sums of its bytes are compared, which torch leaves out.
    """
    try:
        with open_regular(path) as file:
            _check_archive(file)
            file.seek(0)
            checkpoint: Any = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # hostile bytes make torch's unpickler raise almost any exception
        problem = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: is not a checkpoint that can be read ({problem}); restore it") from None
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(map(_is_plain, weights.values())):
        raise ModelError(f"{path}: has no state_dict of plain tensors, so it is not a checkpoint of a run; restore it")
    for key, shape in _COUNTS.items():
        try:
            shape.validate_python(checkpoint.get(key), strict=True)
        except ValidationError:
            raise ModelError(f"{path}: {key} is {show(checkpoint[key])}, not what a run writes; restore it") from None
    return dict(checkpoint)


def _is_plain(weight: Any) -> bool:
    """Return whether something is a tensor with all of its numbers; others cannot be copied into a model."""
    is_dense = isinstance(weight, Tensor) and weight.layout == torch.strided and weight.device.type == "cpu"
    return is_dense and not weight.is_complex() and not weight.is_quantized


def _check_archive(file: BinaryIO) -> None:
    """Require that an archive is as large as its content, because compressed or shared bytes could fill memory.

    Its content must have the CRC-32 sums that were written with it: torch reads changed bytes without a word.
    """
    size = file.seek(0, os.SEEK_END)
    with ZipFile(file) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > size:
            raise ValueError(f"{size:,} bytes that claim to be {claimed:,}")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"bytes of {damaged} have changed since it was written")


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest whole checkpoint of a run.

    Attributes:
        path: Its file.
        content: What it holds.
        damage: Why it is not `last.ckpt`; None where it is.
    """

    path: Path
    content: Mapping[str, Any]
    damage: str | None = None


def read_newest(run: RunDirectory) -> Newest | None:
    """Read `last.ckpt` or, where it is damaged or not there, the one before it; None where there is neither.

    Raises:
        ModelError: No checkpoint can be read, although there is one.
    """
    if not run.has_checkpoint:
        return None
    try:
        if run.last.exists():
            return Newest(path=run.last, content=_read_counted(run.last))
        damage = f"{run.last}: is not there"
    except ModelError as error:
        damage = str(error).removesuffix("; restore it")
    try:
        return Newest(path=run.previous, content=_read_counted(run.previous), damage=damage)
    except ModelError:
        raise ModelError(
            f"{damage}, and {run.previous.name}, the one before it, "
            f"{'cannot be read either' if run.previous.exists() else 'is not there'}; restore one of them, or start "
            "again with overwrite=true"
        ) from None


def _read_counted(path: Path) -> dict[str, Any]:
    """Read a checkpoint that says after which optimizer step it was written."""
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint.get("global_step"), int):
        raise ModelError(f"{path}: does not say how many steps were taken; restore it")
    return checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint writer that writes to a temporary file and moves it into place in one step.

    The `last.ckpt` that is replaced stays as `previous.ckpt`.

    Args:
        run: Folder of the checkpoints.
        is_last_whole: Whether the `last.ckpt` that is there may take the place of `previous.ckpt`.
    """

    def __init__(self, run: RunDirectory, *, is_last_whole: bool) -> None:
        self._run = run
        self._is_last_whole = is_last_whole

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            OSError: The file cannot be written, for example because the disk is full.
        """
        is_last = Path(path) == self._run.last
        kept = self._run.previous if is_last and self._is_last_whole else None
        with replacing(Path(path), kept=kept) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own error is about positions in the file and hides the cause
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        self._is_last_whole |= is_last


class Checkpoints(pl.Callback):
    """Callback that keeps the checkpoints of a run, and ends training: at its last step, early, or on a signal.

    A step that is followed by a validation is saved after it, so that a resumed run never skips or repeats one.
    Lightning's own early stopping is not used, because it takes its patience from the checkpoint of a resumed run, and
    such a run would go on after its end.

    Args:
        run: Folder of the checkpoints.
        signals: Signals that may ask the process to end.
        every_steps: Optimizer steps between two `last.ckpt`.
        val_every_steps: Optimizer steps between two validations.
        total_steps: Optimizer steps of the whole run.
        patience: Validations without a lower loss after which training ends; None for no early end.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        signals: Signals,
        every_steps: int,
        val_every_steps: int,
        total_steps: int,
        patience: int | None = None,
    ) -> None:
        self._run = run
        self._signals = signals
        self._every_steps = every_steps
        self._val_every_steps = val_every_steps
        self._total_steps = total_steps
        self._patience = patience
        self._best_loss = math.inf
        self._since_best = 0

    @property
    def has_ended_early(self) -> bool:
        """Return whether patience is at its end."""
        return self._patience is not None and self._since_best >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """Return the lowest validation loss so far, in nats."""
        return {"best_loss": self._best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the lowest validation loss so far."""
        self._best_loss = state_dict["best_loss"]

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the number of validations without a lower loss."""
        checkpoint["validations_since_best"] = self._since_best

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue to count validations; checkpoints of earlier versions have no number."""
        self._since_best = checkpoint.get("validations_since_best") or 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make a signal wait for the end of a step; needed here because Lightning replaces our SIGTERM handler."""
        self._signals.wait()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after the last step; save a step without validation if it is due or a signal came."""
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
        """Save the newest weights, and those with the lowest validation loss."""
        loss = float(trainer.callback_metrics["val/loss"])
        is_best = loss < self._best_loss
        self._since_best = 0 if is_best else self._since_best + 1
        if is_best:
            self._best_loss = loss
            trainer.save_checkpoint(self._run.best, weights_only=False)
        trainer.save_checkpoint(self._run.last, weights_only=False)
        if trainer.global_step < self._total_steps and self._must_end(trainer):
            self._end(trainer.global_step)
        trainer.should_stop |= self.has_ended_early

    def _end(self, step: int) -> NoReturn:
        logger.info("last.ckpt has optimizer step %d of %d", step, self._total_steps)
        self._signals.end()

    def _must_end(self, trainer: pl.Trainer) -> bool:
        """Return whether a signal came to any of the processes, which must all end after the same step."""
        if trainer.world_size == 1:
            return self._signals.number is not None
        flags = torch.tensor(self._signals.flags, dtype=torch.float32, device=trainer.strategy.root_device)
        came: Tensor = trainer.strategy.reduce(flags, reduce_op="sum")
        return self._signals.take_flags([flag > 0 for flag in came.tolist()])
