"""A trained detector in the folder of its run; the folder may come from someone else and is not trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from halspan.app.configuration import specs
from halspan.app.configuration.settings import read_settings
from halspan.core.errors import ConfigError
from halspan.data.corpus import Corpus
from halspan.data.shapes.world import Shapes
from halspan.data.split.contents import Contents, find_changes
from halspan.data.split.parts import SplitParts
from halspan.evaluation.saved_run import check_inside, read_record, read_split
from halspan.training.run_spec import RunSpec
from halspan.training.rundir import RunDirectory

if TYPE_CHECKING:  # imports torch
    from halspan.inference.tuning import Tuned


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A trained detector in the folder of its run.

    Attributes:
        place: Folder of the run.
        spec: Its configuration, with the machine and the corpus asked for now.
        own: Its configuration with its own corpus.
        split: Content of `split.json`.
    """

    place: RunDirectory
    spec: RunSpec
    own: RunSpec
    split: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, config: DictConfig) -> "FinishedRun":
        """Read a run.

        Raises:
            ConfigError: The folder holds no finished run.
        """
        place = RunDirectory(folder)
        if not (place.config.exists() and place.best.exists()):
            raise ConfigError(
                f"run: {str(folder)!r} has no config.yaml and best.ckpt; give the folder of a trained run"
            )
        if not place.tuned.exists():
            raise ConfigError(
                f"run: {str(folder)!r} has not finished (no tuned.json); finish it first, with `python train.py "
                f"resume=true run_dir={folder}` and the overrides that it was started with"
            )
        check_inside(folder)
        own, spec = _build_specs(place.config, config)
        return cls(place=place, spec=spec, own=own, split=read_split(place.split))

    def check_contents(self, corpus: Corpus, parts: SplitParts) -> None:
        """Require that the run's own captions are those it was trained and judged on.

        Raises:
            ConfigError: The corpus is another one, or it has been edited.
        """
        if not (changes := find_changes(self.split, corpus, parts, in_order=False)):
            return
        source = {"path": "...", **corpus.source}
        raise ConfigError(
            f"data.path: {source['path']} is not the corpus that the run in {self.place.path} was trained and judged "
            f"on: {'; '.join(changes)}. Its figures are kept; give data.path=... where its corpus lies now, or judge "
            f"this one as another corpus, in a folder of its own: data={source.get('reader', '...')} "
            f"data.path={source['path']}"
        )

    @property
    def tuned(self) -> "Tuned":
        """Return the calibration and decoding; read on demand, because that imports torch."""
        from halspan.inference.tuning import Tuned

        try:
            return Tuned.from_record(read_record(self.place.tuned))
        except ValueError as error:
            raise ConfigError(f"{self.place.tuned}: is not what a run writes ({error}); restore it") from None


def _build_specs(file: Path, config: DictConfig) -> tuple[RunSpec, RunSpec]:
    """Build the spec of the run, and the same with the corpus asked for now; both on the machine asked for now."""
    asked: dict[str, Any] = {
        key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "trainer") if key in config
    }
    try:
        saved = read_settings(file)
        saved.pop("origin", None)  # a record of the run's origin, not a setting
        specs.check_names(saved)
        if "trainer" in asked:
            saved["trainer"] = asked["trainer"]
        if asked["data"].get("path") is not None and "_target_" not in asked["data"]:
            saved["data"] = saved.get("data", {}) | {"path": asked["data"]["path"]}
        own = specs.build(saved)
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(str(file)) else f"{file}: {error}") from None
    return own, specs.build(saved | {"data": asked["data"]}) if "_target_" in asked["data"] else own


def check_draws_nothing(own: RunSpec) -> None:
    """Refuse to draw a shapes world outside the working folder when only the run's own folder asks for it."""
    if not isinstance(own.data, Shapes) or own.data.folder.is_dir():
        return
    if not own.data.folder.resolve().is_relative_to(Path.cwd()):
        raise ConfigError(
            f"data.path: the run has its corpus in {own.data.path}, where it is not any more, and nothing is drawn "
            "outside of the working folder unless you say so: data.path=..."
        )


def check_same_split(runs: Sequence[FinishedRun]) -> None:
    """Require that the members of an ensemble share corpus and split, and that their folders' names differ."""
    first = runs[0]
    for run in runs[1:]:
        for part in first.split["parts"]:
            if run.split["parts"][part]["captions"] != first.split["parts"][part]["captions"]:
                raise ConfigError(
                    f"run: {run.place.path} and {first.place.path} have different captions in {part}, so what judges "
                    "one may have trained the other; average runs of one corpus and one split"
                )
        if changes := _compare_contents(first.split, run.split):
            raise ConfigError(
                f"run: {run.place.path} was trained on another corpus than {first.place.path}: {'; '.join(changes)}; "
                "average runs of one corpus and one split"
            )
    names = [run.place.path.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"run: {', '.join(names)}: two folders of one name; members are told apart by their folder")


def _compare_contents(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Explain how the corpora of two runs differ, as far as their `split.json` records it."""
    if not all(split.get("contents") for split in (one, other)):
        return []
    here, there = (Contents.from_record(split["contents"]) for split in (one, other))
    return here.find_changes(there, in_order=False)
