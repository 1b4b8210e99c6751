"""The export command: it writes a trained detector into a folder that loads anywhere."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from filelock import FileLock, Timeout
from omegaconf import DictConfig

from halspan.app.configuration import configure
from halspan.app.configuration.help import CONF
from halspan.app.entry import report_error, require_alone, set_up_logging
from halspan.app.finished_run import FinishedRun
from halspan.console import open_console
from halspan.core.errors import ConfigError, HalspanError

_DTYPES = ("float32", "bfloat16")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="export")
def main(config: DictConfig) -> None:
    """Export a detector."""
    try:
        export(config)
    except HalspanError as error:
        sys.exit(report_error(error))  # not through hydra, which would add lines of its own


def export(config: DictConfig) -> None:
    """Export a detector; its folder appears only after it has scored as the live detector does."""
    set_up_logging()
    require_alone("export")
    configure.require_values(config)
    _check_values(config)
    with _new_folder(Path(config.to), overwrite=config.overwrite) as folder:
        run = FinishedRun.read(Path(config.run), config)
        from halspan.app.exporting import write_detector  # imports torch, so mistakes are reported first

        check = write_detector(run, folder, config)
    kind = "merged" if config.merge else "adapters"
    open_console().print(
        f"{config.to}: {kind}; scores of {check['captions']} captions by it and by the live detector differ by "
        f"{check['largest_difference']:.1e} at most (allowed: {check['tolerance']:.0e})",
        soft_wrap=True,
    )


def _check_values(config: DictConfig) -> None:
    for key in ("merge", "overwrite"):
        if not isinstance(config[key], bool):
            raise ConfigError(f"{key}: must be true or false, got {config[key]!r}")
    if config.dtype not in (None, *_DTYPES):
        raise ConfigError(f"dtype: must be null, {' or '.join(_DTYPES)}, got {config.dtype!r}")
    if not isinstance(config.captions, int) or config.captions < 1:
        raise ConfigError(f"captions: must be a whole number from 1 on, got {config.captions!r}")


@contextmanager
def _new_folder(place: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder; it is moved into place when the block succeeds, and removed otherwise.

    What a killed process has left is removed, and a folder that it was about to replace is put back.
    """
    _check_place(place, overwrite=overwrite)
    temporary, old, lock = (place.with_name(f".{place.name}.{end}") for end in ("tmp", "old", "lock"))
    try:
        with _held(lock):
            if old.exists() and not place.exists():
                old.rename(place)
                _check_place(place, overwrite=overwrite)
            for left in (temporary, old):
                shutil.rmtree(left, ignore_errors=True)
            yield from _replaced(place, temporary, old)
    except OSError as error:
        raise ConfigError(f"to: {place} cannot be written ({error}); choose another place") from None


def _check_place(place: Path, *, overwrite: bool) -> None:
    """Refuse what is not to be replaced, or is no detector."""
    if place.exists() and not overwrite:
        raise ConfigError(f"to: {place} is there already; add overwrite=true to replace it, or choose another folder")
    if place.exists() and not place.is_dir():
        raise ConfigError(f"to: {place} is not a folder; choose another")
    if place.exists() and not (place / "detector.json").is_file() and any(place.iterdir()):
        raise ConfigError(f"to: {place} holds files other than a detector; choose another folder")


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Keep other processes from the same export; the lock of a killed process is released."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, blocking=False)
    try:
        held.acquire()
    except Timeout:
        raise ConfigError(
            f"to: another process is exporting there ({lock}); wait until it has ended, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before others lock it: a lock on a removed file has no effect
        held.release()


def _replaced(place: Path, temporary: Path, old: Path) -> Iterator[Path]:
    try:
        temporary.mkdir()
        yield temporary
        if place.exists():
            place.rename(old)
        temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
