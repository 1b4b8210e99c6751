"""The folder of one run: what lies where in it, and whether a run may start there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from halspan.core.errors import ConfigError
from halspan.core.files import read_bytes
from halspan.core.settings import MOST_BYTES

_MARK = b"_target_: halspan.training.spec.RunSpec"  # a line of every run's configuration
_LOCK = ".lock"
_PARTS = ("val", "test_seen", "test_heldout")
# what judging leaves, in a run and in each evaluation of it
_FIGURES = (
    *("tuned.json", "metrics.json", "report.html", "table.md", "table.csv"),
    *(f"{folder}/{part}.jsonl" for folder in ("predictions", "baselines/*") for part in _PARTS),
)


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

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here: its configuration says so."""
        try:
            return _MARK in read_bytes(self.config, MOST_BYTES).splitlines()
        except (OSError, ValueError):
            return False

    def check(self, *, resume: bool, overwrite: bool, is_one_of_many: bool = False) -> None:
        """Make sure that a run may start here; nothing is changed yet.

        Args:
            resume: whether it is to go on.
            overwrite: whether it is to start again.
            is_one_of_many: whether it is a job of a sweep, of which some may not have begun when it is resumed.

        Raises:
            ConfigError: there is a run, and neither `resume` nor `overwrite` was given, or both were; there is none
                to go on with; or something that no run wrote has a name that this one needs.
        """
        if resume and overwrite:
            raise ConfigError("resume, overwrite: both are true; continue the run or start again, not both")
        if not self.is_run:
            self._refuse_strangers()
            if resume and not is_one_of_many:
                raise ConfigError(f"resume: {self.path} holds no run to go on with; leave resume=true out to begin one")
        elif not resume and not overwrite and (state := self._state()):
            raise ConfigError(
                f"run_dir: {self.path} holds {state}; add resume=true to go on from there, overwrite=true to start "
                "again, or run_dir=... for another folder"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing here while the block lasts; a killed process holds nothing.

        The folder is made if need be, and removed if nothing is in it afterwards. Processes that only help a first one
        to train hold nothing.

        Raises:
            ConfigError: there can be no such folder, or another process writes to it.
        """
        if not is_first_process():
            yield
            return
        lock = FileLock(self.path / _LOCK, blocking=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"run_dir: another process is training or judging in {self.path}; wait until it has ended, or choose "
                "another folder: run_dir=..."
            ) from None
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"run_dir: {self.path} cannot be made or written ({reason}); choose another place"
            ) from None
        try:
            yield
        finally:
            with suppress(OSError):  # before others can have it: a lock on a removed file is none
                (self.path / _LOCK).unlink()
            lock.release()
            _remove_if_empty(self.path)

    def prepare(self, *, overwrite: bool) -> None:
        """Make the folder ready: sweep up what a killed run left half-written and, to start again, what a run wrote.

        What lies here and was not written by a run stays.
        """
        for name in (self.last.name, self.best.name):
            for partial in self.path.glob(f".{name}.*.tmp"):
                partial.unlink(missing_ok=True)
        if overwrite and self.is_run:
            self._remove_run()

    def _remove_run(self) -> None:
        wandb = self.path / "wandb"
        if self.wandb_id.exists() and (id_ := self.wandb_id.read_text(encoding="utf-8").strip()).isalnum():
            for folder in wandb.glob(f"*run-*-{id_}"):
                shutil.rmtree(folder, ignore_errors=True)
        for link in wandb.glob("*"):
            if link.is_symlink() and not link.exists():  # to the latest run
                link.unlink()
        written = self._written()
        for path in written:
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in written} | {wandb}, key=lambda each: -len(each.parts)):
            for each in (folder, folder.parent):
                if each != self.path and self.path in each.parents:
                    _remove_if_empty(each)
        self.config.unlink(missing_ok=True)  # the last one: without it this is no run

    def _written(self) -> list[Path]:
        """List the files here that have the names of what runs and evaluations write, beside the configuration."""
        own = [path for path in (self.split, self.last, self.best, self.wandb_id) if os.path.lexists(path)]
        figures = [
            path for folder in ("", "evaluations/*/") for name in _FIGURES for path in self.path.glob(folder + name)
        ]
        return (
            own
            + figures
            + list(self.path.glob("logs/version_*/metrics.csv"))
            + list(self.path.glob("logs/version_*/hparams.yaml"))
        )

    def _refuse_strangers(self) -> None:
        """Refuse a folder in which a run would write over what no run wrote, or later take it for its own."""
        found = [self.config] if os.path.lexists(self.config) else []
        found += self._written() + list(self.path.glob("logs/version_*"))
        if names := sorted({str(path.relative_to(self.path)) for path in found}):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ConfigError(
                f"run_dir: {self.path} has no run in it, but holds {', '.join(names[:3])}{more}, which a run would "
                "write over; choose another folder (run_dir=...), or move these away"
            )

    def _state(self) -> str | None:
        if self.metrics.exists():
            return "a finished run"
        return "an unfinished run" if self.last.exists() else None


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def is_first_process() -> bool:
    """Say whether this is the process, of those that train together, that writes files and reports."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"
