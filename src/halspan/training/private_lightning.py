"""Private names of Lightning, as they are in 2.6."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from typing_extensions import override


class StepBar(RichProgressBar):
    """A progress bar over the optimizer steps of the whole run."""

    @override
    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    @override
    def _get_train_description(self, current_epoch: int) -> str:
        return f"{'Training':{len(self.validation_description)}}"


def count_steps_as(trainer: pl.Trainer, steps: int) -> None:
    """Let the curves of a trainer go on at a number of optimizer steps."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = steps
