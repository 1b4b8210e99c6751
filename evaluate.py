"""Judge trained detectors, ensembles of them, and baselines: `python evaluate.py --help`."""

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

import configure
import judge
import usage
from baselines import Baselines
from halspan.core import specs
from halspan.core.errors import ConfigError, DataError, HalspanError
from halspan.core.settings import read_settings

if TYPE_CHECKING:
    from halspan.core.captions import Caption
    from halspan.core.texts import KnownTexts
    from halspan.data.corpus import Corpus
    from halspan.data.split import Taken
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
        judge_runs([FinishedRun.read(Path(folder), config) for folder in folders], config, baselines)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A trained detector, as its run left it.

    Attributes:
        place: its folder.
        spec: its configuration, with the machine and the corpus asked for now.
        own: its configuration with its own corpus.
        split: what `split.json` holds.
        tuned: its calibration and decoding.
    """

    place: "RunDirectory"
    spec: "RunSpec"
    own: "RunSpec"
    split: Mapping[str, Any]
    tuned: "Tuned"

    @classmethod
    def read(cls, folder: Path, config: DictConfig) -> "FinishedRun":
        """Read a run.

        Raises:
            ConfigError: the folder holds no finished run.
        """
        from halspan.inference.tuning import Tuned
        from halspan.training.rundir import RunDirectory
        from halspan.training.saved_run import check_inside, read_record, read_split

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
        try:
            tuned = Tuned.from_record(read_record(place.tuned))
        except ValueError as error:
            raise ConfigError(f"{place.tuned}: is not what a run writes ({error}); restore it") from None
        return cls(place=place, spec=spec, own=own, split=read_split(place.split), tuned=tuned)

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
        parts, taken = own_parts.parts(), own_parts.taken
    tasks, not_exchanged = judge.plan_tasks(corpus, parts, seed=first.spec.seed)
    if is_other and len(runs) > 1:
        own = first.own.data.load().relocated(None)
        tasks |= {judge.TUNING: judge.Task(corpus=own, captions=first.own.split.apply(own).val)}
    folder = _folder(runs, corpus if is_other else None, config)
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
    return Baselines(names=names, specs=specs, accelerator=trainer.get("accelerator", "cpu"))


def judge_alone(config: DictConfig, baselines: Baselines) -> None:
    """Judge baselines on a whole corpus; those that learn are fitted on other images than they are judged on."""
    if "_target_" not in config.data:
        raise ConfigError("run, data: neither is given; give run=FOLDER to judge a detector, or data=... for baselines")
    corpus = configure.build(config.data, "data").load().relocated(None)
    folder = Path(config.to or f"checkpoints/baselines-{corpus.name}")
    metrics = judge.judge_baselines_alone(baselines, corpus=corpus, folder=folder, seed=config.seed)
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
    names = [run.place.path.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"run: {', '.join(names)}: two folders of one name; members are told apart by their folder")


def _folder(runs: Sequence[FinishedRun], other: "Corpus | None", config: DictConfig) -> Path:
    """Where the results go: into the run, beside the members of an ensemble, or where `to` says."""
    if config.to is not None:
        return Path(config.to)
    first = runs[0].place.path
    folder = first if len(runs) == 1 else first.with_name("+".join(run.place.path.name for run in runs))
    # a file may be called "...jsonl", and its corpus then ".."
    return folder if other is None else folder / "evaluations" / (other.name.strip(".") or "corpus")


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
