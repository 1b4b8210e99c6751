"""Loggers of a run's curves: a CSV file, or Weights & Biases."""

import re
from collections.abc import Mapping
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from halspan.core.checks import show
from halspan.core.errors import ConfigError
from halspan.core.files import read_bytes, write_text
from halspan.core.process import is_first_process
from halspan.core.text.printable import printable
from halspan.training.run_spec import LoggerSpec, WandbLoggerSpec
from halspan.training.rundir import RunDirectory

if TYPE_CHECKING:
    from wandb import Run

_ID = re.compile(r"[\w-]{1,64}", re.ASCII)


def build_logger(spec: LoggerSpec, run: RunDirectory, *, name: str, settings: Mapping[str, Any]) -> Logger:
    """Build the logger of one run.

    A wandb run is created on the first call for a run directory, which keeps its id; later calls continue it.

    Args:
        spec: Kind of the logger, and its settings.
        run: Folder of the run.
        name: Name of the run.
        settings: Whole configuration, to save with the curves.

    Raises:
        ConfigError: wandb cannot be started.
    """
    if not isinstance(spec, WandbLoggerSpec):
        return CSVLogger(save_dir=run.path, name="logs", flush_logs_every_n_steps=1)
    experiment = _start_wandb(spec, run, name) if is_first_process() else None
    logger = WandbLogger(project=spec.project, id=_wandb_id(run), save_dir=run.path, experiment=experiment)
    logger.log_hyperparams(dict(settings))
    return logger


def finish_logger(logger: Logger, figures: Mapping[str, float]) -> None:
    """Add a run's final figures to its wandb run and close it, so that the next run in this process gets its own."""
    if isinstance(logger, WandbLogger) and is_first_process():
        # wandb prints them, so names in them must be safe for a terminal
        logger.experiment.summary.update({printable(path): value for path, value in figures.items()})
        logger.experiment.finish()


def _start_wandb(spec: WandbLoggerSpec, run: RunDirectory, name: str) -> "Run":
    """Start the wandb run; Lightning would pass an argument that wandb warns about."""
    import wandb
    from wandb.errors import Error

    try:
        experiment = wandb.init(
            project=spec.project,
            entity=spec.entity,
            name=name,
            mode=spec.mode,
            tags=spec.tags,
            id=_wandb_id(run),
            dir=run.path,
            resume="allow",
        )
    except Error as error:
        raise ConfigError(
            f"logger: wandb does not start: {' '.join(str(error).split())} Set logger.mode=offline, which needs no "
            "account and no network, or log in (`wandb login`)"
        ) from error
    experiment.define_metric("trainer/global_step")  # axis of all curves, as in Lightning
    experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return experiment


def _wandb_id(run: RunDirectory) -> str:
    """Return the id of the run folder's wandb run, or a new one if it has none."""
    if not run.wandb_id.exists() and is_first_process():
        write_text(run.wandb_id, token_hex(4))
    try:
        id_ = read_bytes(run.wandb_id, 1000).decode().strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run.wandb_id}: cannot be read ({error}); remove it") from None
    if not _ID.fullmatch(id_):
        raise ConfigError(f"{run.wandb_id}: {show(id_)} is not the id of a wandb run; remove the file")
    return id_
