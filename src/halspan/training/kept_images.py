"""Keeping features of images during training: whether it pays, and what came of it."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
import torch
from typing_extensions import override

from halspan.models.kept.keeping import KEEPING, MEASURING, OFF, Keeper

logger = logging.getLogger(__name__)

_FIRST = 1  # steps that are not measured, because first passes are slower
_MEASURED = 3  # steps
_PAYS = 0.1  # share of a step's time that images take, from which on they are kept


class KeepImages(pl.Callback):
    """Decides in the first steps whether features of images are kept, and logs the entries of a run.

    Images take the time to decode and process them, divided by the workers that do it, and the time of vision tower
    and projector, which run once more to be measured.

    Args:
        keeper: The run's entries.
        workers: Processes that read data; 0 for the training process.
    """

    def __init__(self, keeper: Keeper, *, workers: int) -> None:
        self._keeper = keeper
        self._workers = max(1, workers)
        self._steps = 0
        self._start = 0.0
        self._seconds = {"decoding and processing": 0.0, "vision tower and projector": 0.0, "all": 0.0}

    @override
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._keeper.lookup.mode == MEASURING:
            self._start = _now(pl_module.device)

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for part in batch:
            self._keeper.count(part)
        if self._keeper.lookup.mode == MEASURING:
            self._measure(trainer, pl_module, batch)

    @override
    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for part in batch:
            self._keeper.count(part)

    @override
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Log what became of the rows."""
        counts = self._keeper.counts
        logger.info(
            "features of images: %d rows were served kept ones, %d images were computed and kept, %d rows could not be",
            counts.served,
            counts.computed,
            counts.refused,
        )

    def _measure(self, trainer: Any, module: Any, batch: Any) -> None:
        step = _now(module.device) - self._start
        self._steps += 1
        if self._steps <= _FIRST:
            return
        start = _now(module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for part in batch:
                module.detector.embed(part)
        decoding = sum(part.image_seconds for part in batch) / self._workers
        self._seconds["vision tower and projector"] += _now(module.device) - start
        self._seconds["decoding and processing"] += decoding
        self._seconds["all"] += step + decoding
        if self._steps == _FIRST + _MEASURED:
            self._decide()

    def _decide(self) -> None:
        whole = self._seconds.pop("all")
        shares = {name: seconds / whole for name, seconds in self._seconds.items()}
        pays = sum(shares.values()) >= _PAYS
        self._keeper.lookup.set_mode(KEEPING if pays else OFF)
        logger.info(
            "images take %.0f %% of the time (%s): their features are %s (trainer.keep_images=auto: from %.0f %% on)",
            100 * sum(shares.values()),
            ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items()),
            "kept from now on" if pays else "not kept",
            100 * _PAYS,
        )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
