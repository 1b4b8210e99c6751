"""Judge trained detectors, ensembles of them, and baselines: `python evaluate.py --help`."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import configure
import judge
import usage
from baselines import Baselines, read_metrics
from halspan.core import specs
from halspan.core.errors import ConfigError, DataError, HalspanError
from halspan.core.settings import read_settings

if TYPE_CHECKING:
    from halspan.core.captions import Caption
    from halspan.core.texts import KnownTexts
    from halspan.data.corpus import Corpus
    from halspan.data.split import SplitParts, Taken
    from halspan.inference.tuning import Tuned
    from halspan.training.rundir import RunDirectory
    from halspan.training.spec import RunSpec

logger = logging.getLogger("halspan.evaluate")


@hydra.main(version_base="1.3", config_path=str(usage.CONF), config_name="evaluate")
def main(config: DictConfig) -> None:
    """Judge a detector, an ensemble, or baselines alone."""
    try:
        evaluate(config)
    except HalspanError as error:
        sys.exit(configure.report_error(error))  # past hydra, which would add lines of its own


def evaluate(config: DictConfig) -> None:
    """Judge a detector, an ensemble, or baselines alone."""
    configure.set_up_logging()
    configure.require_values(config)
    baselines = _read_baselines(config)
    if config.run is None:
        judge_alone(config, baselines)
    else:
        folders = [config.run] if isinstance(config.run, str) else list(config.run)
        with _held(folders, config):
            judge_runs([FinishedRun.read(Path(folder), config) for folder in folders], config, baselines)


@contextmanager
def _held(folders: Sequence[str], config: DictConfig) -> Iterator[None]:
    """Keep others out of the folder into which runs are judged; of a folder that is not there, reading says so."""
    from halspan.training.ends import explained_ends
    from halspan.training.rundir import RunDirectory

    place = RunDirectory(_own_folder([Path(folder) for folder in folders], config))
    if not all(Path(folder).is_dir() for folder in folders):
        yield
        return
    with place.held(), explained_ends(place, can_resume=False):
        yield


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A trained detector, as its run left it.

    Attributes:
        place: its folder.
        spec: its configuration, with the machine and the corpus asked for now.
        own: its configuration with its own corpus.
        split: what `split.json` holds.
    """

    place: "RunDirectory"
    spec: "RunSpec"
    own: "RunSpec"
    split: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, config: DictConfig) -> "FinishedRun":
        """Read a run.

        Raises:
            ConfigError: the folder holds no finished run.
        """
        from halspan.training.rundir import RunDirectory
        from halspan.training.saved_run import check_inside, read_split

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

    def check_contents(self, corpus: "Corpus", parts: "SplitParts") -> None:
        """Require that the run's own captions are the ones that it was trained and judged on.

        Raises:
            ConfigError: the corpus is another one, or it has been edited.
        """
        from halspan.data.contents import find_changes

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
        """Its calibration and decoding; not read with the rest, since that imports torch before data are looked at."""
        from halspan.inference.tuning import Tuned
        from halspan.training.saved_run import read_record

        try:
            return Tuned.from_record(read_record(self.place.tuned))
        except ValueError as error:
            raise ConfigError(f"{self.place.tuned}: is not what a run writes ({error}); restore it") from None

    def score(self, tasks: Mapping[str, judge.Task]) -> judge.Scored:
        """Load the detector, score with it, and let it go."""
        from halspan.models.detector import build_detector
        from halspan.training.fit import check_machine, seed_process
        from halspan.training.module import load_trained

        check_machine(self.spec.trainer)
        seed_process(self.spec.trainer, self.spec.seed)
        detector, encoder = build_detector(self.spec.model, self.split["taxonomy"])
        load_trained(detector, self.place.best)
        return judge.score_tasks(
            detector, encoder, self.spec, tasks, name=self.place.path.name, taxonomy=self.split["taxonomy"]
        )


def _build_specs(file: Path, config: DictConfig) -> tuple["RunSpec", "RunSpec"]:
    """Build what a run was, and the same with the corpus asked for now; both on the machine asked for now."""
    asked = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "trainer") if key in config}
    try:
        saved = read_settings(file)
        saved.pop("origin", None)  # says where the run comes from, and sets nothing
        specs.check_names(saved)
        if "trainer" in asked:
            saved["trainer"] = asked["trainer"]
        if asked["data"].get("path") is not None and "_target_" not in asked["data"]:
            saved["data"] = saved.get("data", {}) | {"path": asked["data"]["path"]}
        own = specs.build(saved)
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(str(file)) else f"{file}: {error}") from None
    return own, specs.build(saved | {"data": asked["data"]}) if "_target_" in asked["data"] else own


def _check_draws_nothing(own: "RunSpec") -> None:
    """Refuse to draw a run's world where its folder alone says, outside of the working folder."""
    from halspan.data.shapes.world import Shapes

    if not isinstance(own.data, Shapes) or own.data.folder.is_dir():
        return
    if not own.data.folder.resolve().is_relative_to(Path.cwd()):
        raise ConfigError(
            f"data.path: the run has its corpus in {own.data.path}, where it is not any more, and nothing is drawn "
            "outside of the working folder unless you say so: data.path=..."
        )


def read_figures(file: Path) -> dict[str, Any]:
    """Read what `metrics.json` holds, and make sure that it can be shown.

    Raises:
        ConfigError: it is not what a run writes.
    """
    from halspan.inference.card import headline
    from halspan.reporting.headline import read_notes
    from halspan.reporting.sweeps import main_figures
    from halspan.reporting.tables import metrics_table
    from halspan.training.saved_run import read_record

    metrics = read_record(file)
    try:
        for show in (metrics_table, read_notes, main_figures, headline):
            show(metrics)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{file}: is not what a run writes ({type(error).__name__}: {' '.join(str(error).split())[:100]}); restore "
            "it, or judge the run again (evaluate.py)"
        ) from None
    return metrics


def judge_runs(runs: Sequence[FinishedRun], config: DictConfig, baselines: Baselines) -> None:
    """Score what runs were judged on once more, or another corpus; several runs as one detector."""
    first = runs[0]
    _check_same_split(runs)
    is_other = "_target_" in config.data
    if (config.data.path is None and not is_other) or (is_other and len(runs) > 1):
        _check_draws_nothing(first.own)
    corpus = first.spec.data.load().relocated(None)
    if is_other:
        parts, taken = _divide(corpus, [run.split for run in runs])
    else:
        own_parts = first.spec.split.apply(corpus)
        first.check_contents(corpus, own_parts)
        parts, taken = own_parts.parts(), own_parts.taken
    folder = _folder(runs, corpus if is_other else None, config)
    _check_folder(folder, corpus)
    baselines.check()
    tasks, not_exchanged = judge.plan_tasks(corpus, parts, seed=first.spec.seed)
    if is_other and len(runs) > 1:
        own = first.own.data.load().relocated(None)
        own_parts = first.own.split.apply(own)
        first.check_contents(own, own_parts)
        tasks |= {judge.TUNING: judge.Task(corpus=own, captions=own_parts.val)}
    metrics = judge.judge(
        [run.score(tasks) for run in runs],
        tuned=[run.tuned for run in runs],
        corpus=corpus,
        parts=parts,
        folder=folder,
        seed=first.spec.seed,
        baselines=baselines,
        not_exchanged=not_exchanged,
        taken=taken,
    )
    judge.show_figures(metrics, folder)


def _read_baselines(config: DictConfig) -> Baselines:
    """Read which baselines to judge, and build the specs of those that are models."""
    from halspan.baselines.registry import SPECS, check_names

    names = [config.baselines] if isinstance(config.baselines, str) else list(config.baselines)
    check_names(names)
    if not names and config.run is None:
        raise ConfigError("run, baselines: neither is given; give run=FOLDER to judge a detector, or name baselines")
    if "zero_shot" in names:
        if "model" not in config:
            raise ConfigError("model: not given; the baseline zero_shot asks one: choose it, such as model=qwen3_vl")
        config.zero_shot.model = config.model
    specs = {name: configure.build(config[name], name) for name in names if name in SPECS}
    trainer = config.get("trainer") or {}
    asked = any(override.partition("=")[0] == "baselines" for override in HydraConfig.get().overrides.task)
    return Baselines(names=names, specs=specs, accelerator=trainer.get("accelerator", "cpu"), required=asked)


def judge_alone(config: DictConfig, baselines: Baselines) -> None:
    """Judge baselines on a whole corpus; those that learn are fitted on other images than they are judged on."""
    from halspan.training.ends import explained_ends
    from halspan.training.rundir import RunDirectory

    if "_target_" not in config.data:
        raise ConfigError("run, data: neither is given; give run=FOLDER to judge a detector, or data=... for baselines")
    corpus = configure.build(config.data, "data").load().relocated(None)
    folder = Path(config.to or f"checkpoints/baselines-{corpus.name}")
    _check_folder(folder, corpus)
    baselines.check()
    place = RunDirectory(folder)
    with place.held(), explained_ends(place, can_resume=False):
        metrics = judge.judge_baselines_alone(
            replace(baselines, required=True), corpus=corpus, folder=folder, seed=config.seed
        )
    judge.show_figures(metrics, folder)


def _check_same_split(runs: Sequence[FinishedRun]) -> None:
    """Require that what one detector of an ensemble is judged on has trained none of the others."""
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
    """Say in what the corpora of two runs differ, as far as their `split.json` says what was in them."""
    from halspan.data.contents import Contents

    if not all(split.get("contents") for split in (one, other)):
        return []
    here, there = (Contents.from_record(split["contents"]) for split in (one, other))
    return here.find_changes(there, in_order=False)


def _folder(runs: Sequence[FinishedRun], other: "Corpus | None", config: DictConfig) -> Path:
    """Where the results go: into the run, beside the members of an ensemble, or where `to` says."""
    folder = _own_folder([run.place.path for run in runs], config)
    if other is None or config.to is not None:
        return folder
    return folder / "evaluations" / (other.name.strip(".") or "corpus")  # a file may be called "...jsonl"


def _own_folder(runs: Sequence[Path], config: DictConfig) -> Path:
    if config.to is not None:
        return Path(config.to)
    return runs[0] if len(runs) == 1 else runs[0].with_name("+".join(run.name for run in runs))


def _check_folder(folder: Path, corpus: "Corpus") -> None:
    """Require that the figures of another corpus are not replaced, also where that has the same name.

    Raises:
        ConfigError: they would be.
    """
    from halspan.data.contents import Contents

    there = (read_metrics(folder).get("run") or {}).get("corpus") or {}
    if (digest := there.get("digest")) is not None and digest != Contents.of_corpus(corpus).digest:
        raise ConfigError(
            f"to: {folder} has the figures of another corpus, {there['name']} of {there['captions']:,} captions, or of "
            "this one before it changed; choose another folder with to=..., or remove this one"
        )


def _divide(corpus: "Corpus", splits: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list["Caption"]], "Taken"]:
    """Divide another corpus by what the runs were trained on; images of their train and val parts are left out.

    Returns:
        The parts, and what training took from them.

    Raises:
        DataError: nothing is left.
    """
    from halspan.data.split import IMAGE_TAKEN, LeftOut, Taken

    known = {image for split in splits for part in ("train", "val") for image in split["parts"][part]["images"]}
    trained = {generator for split in splits for generator in split["generators"]["train"]}
    parts: dict[str, list[Caption]] = {"test_seen": [], judge.HELD_OUT: []}
    taken: dict[str, Counter[str]] = {part: Counter() for part in parts}
    for caption in corpus.captions:
        part = "test_seen" if caption.generator in trained else judge.HELD_OUT
        if corpus.image_hash(caption) in known:
            taken[part][caption.generator] += 1
        else:
            parts[part].append(caption)
    if not any(parts.values()):
        raise DataError(f"data.path: the run was trained on all images of {corpus.name}; give a corpus with others")
    if n_known := sum(counts.total() for counts in taken.values()):
        logger.warning("left out %d captions of images that the run was trained on", n_known)
    left_out = [LeftOut(part=part, reason=IMAGE_TAKEN, by_generator=dict(n)) for part, n in taken.items() if n]
    return parts, Taken(texts=_train_texts(splits), left_out=tuple(left_out))


def _train_texts(splits: Sequence[Mapping[str, Any]]) -> "KnownTexts | None":
    """Collect the texts that any of the runs was trained on; None where one of them does not list its own."""
    from halspan.core.texts import KnownTexts

    records = [split.get("texts", {}).get("train") for split in splits]
    if any(record is None for record in records):
        return None
    return reduce(or_, map(KnownTexts.from_record, records), KnownTexts())


if __name__ == "__main__":
    configure.run_entry(main, "evaluate")
