"""Processes that hold a backbone in shards: they start before it is read, and Lightning leaves it as it is."""

from lightning_fabric import Fabric
from pytorch_lightning.strategies import DDPStrategy
from typing_extensions import override

from halspan.training.run_spec import TrainerSpec


def join_processes(spec: TrainerSpec) -> None:
    """Start the other processes of a run in shards, and connect with them; nothing where they are already there.

    Lightning would start them after the backbone is read.

    Args:
        spec: Machine of the run.
    """
    if spec.strategy == "fsdp":
        Fabric(accelerator=spec.accelerator, devices=spec.devices, strategy="ddp").launch()


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
