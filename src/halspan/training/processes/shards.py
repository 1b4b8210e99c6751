"""Processes that hold a backbone in shards: Lightning leaves it as it is."""

from pytorch_lightning.strategies import DDPStrategy
from typing_extensions import override


class ShardsStrategy(DDPStrategy):
    """Lightning's strategy for a detector that is in shards already: it is neither wrapped nor gathered.

    `DetectorModule` exchanges the gradients of what is trained itself. Lightning's `ModelParallelStrategy` would gather
    all weights in one process for each checkpoint, the frozen ones too, and name the optimizer's state otherwise than
    a run of one process.
    """

    @override
    def configure_ddp(self) -> None:
        """Leave the module as it is."""

    @override
    def teardown(self) -> None:
        """Leave the module where it is: its shards belong to this process's device."""
        self.precision_plugin.teardown()
        self.checkpoint_io.teardown()
        if self.accelerator is not None:
            self.accelerator.teardown()
