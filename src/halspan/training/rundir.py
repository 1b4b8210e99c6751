"""The folder of one run: the files in it, and whether a run may start there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from halspan.core.errors import ConfigError
from halspan.core.files import read_bytes, remove_unfinished
from halspan.core.process import is_first_process

_MARKS = (  # a line in every run's configuration, also from earlier versions
    b"_target_: halspan.training.run_spec.RunSpec",
    b"_target_: halspan.training.spec.RunSpec",
)
_LOCK = ".lock"
_MOST_BYTES = 2**20  # a hundred times what a run writes
_MOST_ID = 1000  # bytes
_PARTS = ("val", "test_seen", "test_heldout")
# files of judging, in a run and in each evaluation of it
_FIGURES = (
    *("tuned.json", "metrics.json", "report.html", "table.md", "table.csv"),
    *("profile.json", "profile.html", "profile_trace.json.gz"),
    *(f"{folder}/{part}.jsonl" for folder in ("predictions", "baselines/*") for part in _PARTS),
)


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.

    Attributes:
        path: The folder, which need not exist yet.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Return the file of the resolved configuration."""
        return self.path / "config.yaml"

    @property
    def split(self) -> Path:
        """Return the file that lists the captions of each part."""
        return self.path / "split.json"

    @property
    def last(self) -> Path:
        """Return the newest checkpoint, from which a resumed run continues."""
        return self.path / "last.ckpt"

    @property
    def previous(self) -> Path:
        """Return the checkpoint before `last.ckpt`, for the case that this one is damaged."""
        return self.path / "previous.ckpt"

    @property
    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to continue from."""
        return self.last.exists() or self.previous.exists()

    @property
    def best(self) -> Path:
        """Return the checkpoint with the lowest validation loss, which is the detector."""
        return self.path / "best.ckpt"

    @property
    def tuned(self) -> Path:
        """Return the file of temperatures, threshold and decoding parameters, tuned on the validation part."""
        return self.path / "tuned.json"

    @property
    def profile(self) -> Path:
        """Return the place of the times of a step's parts."""
        return self.path / "profile.json"

    @property
    def profile_trace(self) -> Path:
        """Return the place of the trace of the measured steps."""
        return self.path / "profile_trace.json.gz"

    @property
    def metrics(self) -> Path:
        """Return the file of all figures; a run that has it is finished."""
        return self.path / "metrics.json"

    @property
    def predictions(self) -> Path:
        """Return the folder of predictions, with one JSON Lines file per part."""
        return self.path / "predictions"

    @property
    def wandb_id(self) -> Path:
        """Return the file with the id of the wandb run that belongs to this folder."""
        return self.path / "wandb_id.txt"

    @property
    def is_run(self) -> bool:
        """Return whether a run has begun here, which its configuration shows."""
        try:
            lines = read_bytes(self.config, _MOST_BYTES).splitlines()
        except (OSError, ValueError):
            return False
        return any(mark in lines for mark in _MARKS)

    def check(self, *, resume: bool | Literal["auto"], overwrite: bool, is_one_of_many: bool = False) -> bool:
        """Check that a run may start here, without changing anything.

        Args:
            resume: Whether the run continues; `auto` where there is something to continue.
            overwrite: Whether the run starts again.
            is_one_of_many: Whether it is a job of a sweep; when a sweep is resumed, some jobs may not have begun.

        Returns:
            Whether the run continues.

        Raises:
            ConfigError: There is a run, and neither or both of `resume` and `overwrite` are given; there is no run to
                continue; or a file that no run wrote has a name that this one needs.
        """
        if resume and overwrite:
            raise ConfigError("resume, overwrite: both are given; continue the run or start again, not both")
        if not self.is_run:
            self._refuse_strangers()
            if resume is True and not is_one_of_many:
                raise ConfigError(f"resume: {self.path} holds no run to continue; leave resume=true out to begin one")
        elif not resume and not overwrite and (state := self._state()):
            raise ConfigError(
                f"run_dir: {self.path} holds {state}; add resume=true to continue, overwrite=true to start "
                "again, or run_dir=... for another folder"
            )
        return self.is_run and self._state() is not None if resume == "auto" else resume

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against other processes while the block lasts; the lock of a killed process is released.

        The folder and its parents are created if necessary, and removed if they are empty afterwards. Only the first of
        the processes that train together takes the lock.

        Raises:
            ConfigError: The folder cannot be created, or another process writes to it.
        """
        if not is_first_process():
            yield
            return
        lock = FileLock(self.path / _LOCK, blocking=False)
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
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
            remove_unfinished(self.path)
            yield
        finally:
            with suppress(OSError):  # before others lock it: a lock on a removed file has no effect
                (self.path / _LOCK).unlink()
            lock.release()
            for folder in made:
                _remove_if_empty(folder)

    def prepare(self, *, overwrite: bool) -> None:
        """Clean the folder: remove incomplete files and, to start again, the files of the earlier run.

        Files that no run wrote stay.
        """
        for name in (self.last.name, self.best.name):
            for partial in self.path.glob(f".{name}.*.tmp"):
                partial.unlink(missing_ok=True)
        if overwrite and self.is_run:
            self._remove_run()

    def _remove_run(self) -> None:
        wandb = self.path / "wandb"
        with suppress(OSError, ValueError):  # there is none, or it holds something else
            if (id_ := read_bytes(self.wandb_id, _MOST_ID).decode().strip()).isalnum():
                for folder in wandb.glob(f"*run-*-{id_}"):
                    shutil.rmtree(folder, ignore_errors=True)
        for link in wandb.glob("*"):
            if link.is_symlink() and not link.exists():  # a link to the latest run
                link.unlink()
        written = self._written()
        for path in written:
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in written} | {wandb}, key=lambda each: -len(each.parts)):
            for each in (folder, folder.parent):
                if each != self.path and self.path in each.parents:
                    _remove_if_empty(each)
        self.config.unlink(missing_ok=True)  # last, because without it the folder is not a run

    def _written(self) -> list[Path]:
        """List the files with names that runs and evaluations use, except the configuration."""
        own = [
            path for path in (self.split, self.last, self.previous, self.best, self.wandb_id) if os.path.lexists(path)
        ]
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
        """Refuse a folder with files of other origin that a run would overwrite or take for its own."""
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
        return "an unfinished run" if self.has_checkpoint else None


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
