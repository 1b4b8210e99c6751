"""Checks before a run resumes: its settings, captions and images must be those it started with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halspan.app.configuration.settings import read_settings
from halspan.core.errors import ConfigError
from halspan.data.corpus import Corpus
from halspan.data.split.contents import find_changes
from halspan.data.split.parts import SplitParts
from halspan.evaluation.saved_run import read_split
from halspan.training.rundir import RunDirectory

# Settings that identify a run and must not change on resume. The place of the corpus may change, its content may not.
_IDENTITY = ("data", "model", "split", "optimizer", "loss", "seed", "blank_images")
_ROWS = {"trainer.rows_per_batch", "trainer.captions_per_row"}  # these determine the rows of an optimizer step
_MAY_MOVE = {"data.path", "data.images"}


def check_corpus(place: RunDirectory, data: Mapping[str, Any]) -> None:
    """Refuse to use a run's folder for another corpus of the same name.

    Raises:
        ConfigError: The folder belongs to another corpus; the message names it and suggests a folder.
    """
    if not (place.is_run and (place.metrics.exists() or place.has_checkpoint)):
        return
    saved = read_settings(place.config).get("data")
    here, there = data.get("path"), saved.get("path") if isinstance(saved, Mapping) else None
    if here and isinstance(there, str) and Path(here).resolve() != Path(there).resolve():
        raise ConfigError(
            f"run_dir: {place.path} holds a run on another corpus, {there}; keep it, and give this one a folder of "
            f"its own: run_dir={place.path}-{Path(here).stem}"
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return each leaf of nested mappings by its dotted path."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def check_settings(place: RunDirectory, settings: dict[str, Any]) -> None:
    """Require that the settings which identify a run are unchanged.

    Raises:
        ConfigError: The folder holds a run with other settings.
    """
    if not place.config.exists():
        return
    saved = read_settings(place.config)
    here, there = (_identify(run) for run in (settings, saved))
    for key in sorted((here.keys() | there.keys()) - _MAY_MOVE):
        if here.get(key) != there.get(key):
            raise ConfigError(
                f"{key}: {here.get(key)!r}, but the run in {place.path} has {there.get(key)!r}; resume it with the "
                "same value, or choose another run_dir"
            )


def _identify(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that identify a run, by dotted path."""
    rows = {key: value for key, value in flatten({"trainer": settings.get("trainer")}).items() if key in _ROWS}
    return flatten({key: settings.get(key) for key in _IDENTITY}) | rows


def check_contents(place: RunDirectory, corpus: Corpus, parts: SplitParts) -> None:
    """Require that a resumed run has the captions, labels, images and parts it started with.

    Raises:
        ConfigError: Some of them have changed.
    """
    if not (place.has_checkpoint or place.metrics.exists()):
        return

    if changes := find_changes(read_split(place.split), corpus, parts, in_order=True):
        raise ConfigError(
            f"data.path: the corpus is not the one that the run in {place.path} has: {'; '.join(changes)}; resume the "
            "run with its own corpus, choose another run_dir, or start again with overwrite=true"
        )
