"""Judge trained detectors, ensembles of them, and baselines: `python evaluate.py --help`."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from halspan.core.errors import ConfigError, DataError, HalspanError

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
        saved = OmegaConf.load(place.config)
        saved.pop("origin", None)  # says where the run comes from, and sets nothing
        if "trainer" in config:
            saved.trainer = config.trainer
        if "_target_" not in config.data and config.data.path is not None:
            saved.data.path = config.data.path
        own = configure.build(saved)
        if "_target_" in config.data:
            saved.data = config.data
        return cls(
            place=place,
            spec=configure.build(saved),
            own=own,
            split=json.loads(place.split.read_text(encoding="utf-8")),
            tuned=Tuned.from_record(json.loads(place.tuned.read_text(encoding="utf-8"))),
        )

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


def judge_runs(runs: Sequence[FinishedRun], config: DictConfig, baselines: Baselines) -> None:
    """Score what runs were judged on once more, or another corpus; several runs as one detector."""
    first = runs[0]
    _check_same_split(runs)
    is_other = "_target_" in config.data
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
    from halspan.training.ends import explained_ends
    from halspan.training.rundir import RunDirectory

    if "_target_" not in config.data:
        raise ConfigError("run, data: neither is given; give run=FOLDER to judge a detector, or data=... for baselines")
    corpus = configure.build(config.data, "data").load().relocated(None)
    folder = Path(config.to or f"checkpoints/baselines-{corpus.name}")
    place = RunDirectory(folder)
    with place.held(), explained_ends(place, can_resume=False):
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
    folder = _own_folder([run.place.path for run in runs], config)
    return folder if other is None or config.to is not None else folder / "evaluations" / other.name


def _own_folder(runs: Sequence[Path], config: DictConfig) -> Path:
    if config.to is not None:
        return Path(config.to)
    return runs[0] if len(runs) == 1 else runs[0].with_name("+".join(run.name for run in runs))


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
