"""Training of a detector from its rows to `best.ckpt`: the Lightning parts together."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy

from halspan.core.errors import ConfigError, DataError, ModelError
from halspan.core.loss_weights import LossWeights
from halspan.core.process import process_count
from halspan.data.rows import Row
from halspan.models.compiling import compiled
from halspan.models.detector import SpanDetector
from halspan.models.kept.keeping import Keeper
from halspan.training.checkpoints import AtomicCheckpointIO, Checkpoints, read_newest
from halspan.training.datamodule import RowData
from halspan.training.encoding import EncodeRows
from halspan.training.interruption import Signals
from halspan.training.kept_images import KeepImages
from halspan.training.module import DetectorModule, load_trained
from halspan.training.private_lightning import StepBar
from halspan.training.processes.shards import ShardsStrategy
from halspan.training.profiling import Profile
from halspan.training.run_spec import OptimizerSpec, TrainerSpec
from halspan.training.rundir import RunDirectory

logger = logging.getLogger(__name__)


def seed_process(spec: TrainerSpec, seed: int) -> None:
    """Seed every random generator of this process, set its threads and, with GPUs, select its own."""
    if spec.accelerator == "gpu":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # 4-bit weights are put on it during reading
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    pl.seed_everything(seed, verbose=False)


def check_machine(spec: TrainerSpec) -> None:
    """Check that the requested accelerators exist.

    Raises:
        ConfigError: They do not exist.
    """
    if spec.accelerator == "gpu" and (n_gpus := torch.cuda.device_count()) < spec.devices:
        raise ConfigError(
            f"trainer.devices: {spec.devices} GPUs asked for, {n_gpus} visible to torch; use trainer=cpu, or set "
            "trainer.devices to what is there (SLURM: ask for GPUs per machine, --gpus-per-node, not per task)"
        )


def fit(
    detector: SpanDetector,
    *,
    train: Sequence[Row],
    val: Sequence[Row],
    encode: EncodeRows,
    tokens_per_pass: int,
    run: RunDirectory,
    trainer: TrainerSpec,
    optimizer: OptimizerSpec,
    loss: LossWeights,
    curves: Logger,
    seed: int,
    keeper: Keeper | None = None,
) -> "Progress":
    """Train a detector, from the newest checkpoint if there is one; it ends with the weights of `best.ckpt`.

    Args:
        detector: Detector to train, in place.
        train: Training rows.
        val: Validation rows; their loss chooses `best.ckpt`.
        encode: Encoder of the rows.
        tokens_per_pass: Most tokens of one pass, padding included; a resumed run continues with its own.
        run: Folder of the checkpoints.
        trainer: Machine, batch sizes and length.
        optimizer: Rates, decay and schedule.
        loss: Weights of the loss terms.
        curves: Logger of the curves.
        seed: Seed of the order of rows and of dropout.
        keeper: Features of images that are kept; None to keep none.

    Returns:
        How far training came.

    Raises:
        DataError: There are no training or no validation rows.
        ConfigError: The run has already taken more steps than it should.
        ModelError: No checkpoint can be read, or it belongs to another detector, the loss became NaN, or training ended
            before its last step.
        OSError: A checkpoint cannot be written.
        Interrupted: A signal asked the process to end; `last.ckpt` holds the step during which it came.
    """
    if not train or not val:
        raise DataError(
            f"split: {len(train)} training rows and {len(val)} validation rows; both need at least one image: "
            "hold out fewer generators or give more data"
        )
    total_steps = trainer.total_steps(len(train))
    check_length(run, trainer, n_rows=len(train))
    done = Progress.read(run)
    done.log(total_steps)
    if done.step < total_steps and not done.has_ended_early(trainer.patience):
        rows = RowData(
            train=train,
            val=val,
            lengths=(encode.measure(train), encode.measure(val)),
            encode=encode,
            spec=trainer,
            tokens_per_pass=tokens_per_pass,
            seed=seed,
        )
        generators = sorted({caption.generator for row in val for caption in row.captions})
        module = DetectorModule(
            detector, optimizer=optimizer, loss=loss, total_steps=total_steps, seed=seed, generators=generators
        )
        done = _take_steps(module, rows, run=run, trainer=trainer, curves=curves, keeper=keeper, done=done)
    if done.step < total_steps:
        logger.info(
            "training ended early, after optimizer step %d of %d: the last %d validations had no lower loss "
            "(trainer.patience)",
            done.step,
            total_steps,
            trainer.patience,
        )
    if done.halvings:
        logger.warning(
            "passes of this run were halved because memory was too short (number of times: %d); a smaller "
            "trainer.tokens_per_pass loses no time on that",
            done.halvings,
        )
    load_trained(detector, run.best)
    return done


def _take_steps(
    module: DetectorModule,
    rows: RowData,
    *,
    run: RunDirectory,
    trainer: TrainerSpec,
    curves: Logger,
    keeper: Keeper | None,
    done: "Progress",
) -> "Progress":
    """Take the steps that are left, and return how far training came.

    Raises:
        ModelError: Training ended before its last step, although nothing asked it to.
    """
    detector, n_rows = module.detector, rows.n_rows
    with _shown_to(keeper, detector), _signals_raised() as signals, warnings.catch_warnings():
        # RowData itself resumes inside an epoch, and a few rows need neither workers nor frequent logging.
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning 2.6 with torch 2.13
        checkpoints = _build_checkpoints(trainer, run, signals, n_rows=n_rows)
        keeping = [] if keeper is None else [KeepImages(keeper, workers=trainer.workers)]
        measuring = [Profile(run, detector, rows)] if trainer.profile else []
        writer = AtomicCheckpointIO(run, is_last_whole=done.path == run.last)
        callbacks = [*keeping, checkpoints, *measuring]
        lightning = _build_trainer(trainer, run, curves, callbacks, writer, n_rows=n_rows)
        with compiled(detector.decoder_layers if trainer.compile else ()):
            lightning.fit(module, datamodule=rows, ckpt_path=done.path, weights_only=True)
    if lightning.global_step != rows.total_steps and not checkpoints.has_ended_early:
        raise ModelError(
            f"training ended after optimizer step {lightning.global_step} of {rows.total_steps}, although nothing "
            "asked it to; resume=true continues from last.ckpt"
        )
    return Progress(step=lightning.global_step, halvings=module.halvings)


@contextmanager
def _shown_to(keeper: Keeper | None, detector: SpanDetector) -> Iterator[None]:
    """Let a keeper have the features of images that passes of a detector show."""
    detector.on_features = None if keeper is None else keeper.take
    try:
        yield
    finally:
        detector.on_features = None


@contextmanager
def _signals_raised() -> Iterator[Signals]:
    """Handle signals while Lightning trains, and raise them; Lightning itself would exit with status 1 or 0."""
    with Signals() as signals:
        try:
            yield signals
        except SystemExit:
            if signals.number is None:
                raise
        if signals.number is not None:
            signals.end()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run.

    Attributes:
        step: Optimizer steps before the newest checkpoint; 0 where there is none.
        path: That checkpoint, from which the run continues.
        damage: Why it is not `last.ckpt`; None where it is.
        of_steps: Optimizer steps of the run that wrote it; None where this is not recorded.
        validations_since_best: Validations in a row without a lower loss.
        halvings: Number of times that memory was too short for a pass.
    """

    step: int = 0
    path: Path | None = None
    damage: str | None = None
    of_steps: int | None = None
    validations_since_best: int = 0
    halvings: int = 0

    @classmethod
    def read(cls, run: RunDirectory) -> "Progress":
        """Read the progress from the newest checkpoint that is whole."""
        if (newest := read_newest(run)) is None:
            return cls()
        return cls(
            step=newest.content["global_step"],
            path=newest.path,
            damage=newest.damage,
            of_steps=newest.content.get("total_steps"),
            validations_since_best=newest.content.get("validations_since_best") or 0,
            halvings=newest.content.get("halvings") or 0,
        )

    def has_ended_early(self, patience: int | None) -> bool:
        """Return whether a run with some `trainer.patience` has ended here."""
        return patience is not None and self.validations_since_best >= patience

    def log(self, total_steps: int) -> None:
        """Log where the run continues, and the effect of a changed length."""
        if self.damage is not None and self.path is not None:
            logger.warning("%s; the run continues from %s, the one before it", self.damage, self.path.name)
        if self.step:
            logger.info("continuing after optimizer step %d of %d", self.step, total_steps)
        if self.of_steps not in (None, total_steps):
            logger.info(
                "the run was to have %d optimizer steps and has %d now: from here on the learning rate follows the "
                "schedule of a run of %d",
                self.of_steps,
                total_steps,
                total_steps,
            )


def check_length(run: RunDirectory, spec: TrainerSpec, *, n_rows: int) -> None:
    """Refuse to resume a run with fewer optimizer steps than it has taken.

    Args:
        run: Folder of `last.ckpt`, if there is one.
        spec: Length of training.
        n_rows: Number of training rows.

    Raises:
        ConfigError: The run has already taken more steps.
    """
    total_steps, done = spec.total_steps(n_rows), Progress.read(run).step
    if done > total_steps:
        raise ConfigError(
            f"trainer.max_steps, trainer.max_epochs: they ask for {total_steps} optimizer steps, but the run in "
            f"{run.path} has taken {done}; ask for at least as many, or start again with overwrite=true"
        )


def _build_checkpoints(spec: TrainerSpec, run: RunDirectory, signals: Signals, *, n_rows: int) -> Checkpoints:
    return Checkpoints(
        run,
        signals=signals,
        every_steps=spec.save_every_steps,
        val_every_steps=spec.val_every_steps or spec.steps_per_epoch(n_rows),
        total_steps=spec.total_steps(n_rows),
        patience=spec.patience,
    )


def _build_trainer(
    spec: TrainerSpec,
    run: RunDirectory,
    curves: Logger,
    callbacks: Sequence[pl.Callback],
    writer: AtomicCheckpointIO,
    *,
    n_rows: int,
) -> pl.Trainer:
    return pl.Trainer(
        accelerator=spec.accelerator,
        devices=spec.devices,
        num_nodes=spec.nodes,
        strategy=_build_strategy(spec),
        precision=spec.precision,
        max_epochs=1,  # the loader yields all steps of the run in one epoch
        check_val_every_n_epoch=None,
        val_check_interval=spec.val_every_steps or spec.steps_per_epoch(n_rows),
        num_sanity_val_steps=0,
        log_every_n_steps=spec.log_every_steps,
        logger=curves,
        callbacks=[*callbacks, StepBar(leave=True, console_kwargs={"stderr": True})],
        plugins=[writer, _environment()],
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run.path,
    )


def _environment() -> ClusterEnvironment:
    """Return how Lightning finds the processes, which are there already (`halspan.training.processes.group`).

    It is never Lightning's environment of SLURM, which would answer signals with a checkpoint of its own and put the
    job back, while halspan ends training at its next step, and the job script decides.
    """
    return TorchElasticEnvironment() if process_count() > 1 else LightningEnvironment()


def _build_strategy(spec: TrainerSpec) -> DDPStrategy | Literal["auto"]:
    if spec.strategy == "fsdp":
        return ShardsStrategy()
    # Rows are spread by halspan, so devices may validate different numbers of batches: no buffers in between.
    return DDPStrategy(broadcast_buffers=False) if spec.all_devices > 1 else "auto"
