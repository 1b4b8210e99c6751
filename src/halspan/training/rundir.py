"""The folder of one run: what lies where in it, and whether a run may start there."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from halspan.core.errors import ConfigError


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.

    Attributes:
        path: the folder; it need not exist yet.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def split(self) -> Path:
        """Which captions went where."""
        return self.path / "split.json"

    @property
    def last(self) -> Path:
        """The newest checkpoint: what a resumed run continues from."""
        return self.path / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss: the detector."""
        return self.path / "best.ckpt"

    @property
    def tuned(self) -> Path:
        """Temperatures, threshold and decoding parameters, tuned on the validation part."""
        return self.path / "tuned.json"

    @property
    def metrics(self) -> Path:
        """All figures; a run that has them is finished."""
        return self.path / "metrics.json"

    @property
    def predictions(self) -> Path:
        """Folder of one JSON Lines file for each part."""
        return self.path / "predictions"

    @property
    def wandb_id(self) -> Path:
        """The id of the wandb run that belongs to this folder."""
        return self.path / "wandb_id.txt"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Make sure that a run may start here; nothing is changed yet.

        Raises:
            ConfigError: there is a run, and neither `resume` nor `overwrite` was given, or both were.
        """
        if resume and overwrite:
            raise ConfigError("resume, overwrite: both are true; continue the run or start again, not both")
        if not resume and not overwrite and (state := self._state()):
            raise ConfigError(
                f"run_dir: {self.path} holds {state}; add resume=true to go on from there, overwrite=true to start "
                "again, or run_dir=... for another folder"
            )

    def prepare(self, *, overwrite: bool) -> None:
        """Make the folder; delete what an old run left there, and nothing else, if it is to be overwritten.

        Raises:
            ConfigError: there can be no such folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run_dir: {self.path} cannot be made ({error.strerror}); choose another place") from None
        if overwrite:
            for path in (self.config, self.split, self.last, self.best, self.tuned, self.metrics, self.wandb_id):
                path.unlink(missing_ok=True)
            for name in ("report.html", "table.md", "table.csv"):
                (self.path / name).unlink(missing_ok=True)
            for name in ("predictions", "baselines", "logs", "wandb", "evaluations"):
                shutil.rmtree(self.path / name, ignore_errors=True)

    def _state(self) -> str | None:
        if self.metrics.exists():
            return "a finished run"
        return "an unfinished run" if self.last.exists() else None


def is_first_process() -> bool:
    """Say whether this is the process, of those that train together, that writes files and reports."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"
