"""The evaluation command: it judges detectors, averages of detectors, and baselines."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from halspan.app.configuration import configure
from halspan.app.configuration.help import CONF
from halspan.app.entry import report_error, require_alone, set_up_logging
from halspan.app.finished_run import FinishedRun, check_draws_nothing, check_same_split
from halspan.core.captions import Caption
from halspan.core.errors import ConfigError, DataError, HalspanError
from halspan.core.text.known_texts import KnownTexts
from halspan.data.corpus import Corpus
from halspan.data.split.contents import Contents
from halspan.data.split.parts import HELD_OUT, IMAGE_TAKEN, TEST_SEEN, TRAIN, VAL, LeftOut, Taken
from halspan.evaluation.baselines.registry import SPECS, check_names
from halspan.evaluation.baselines.runner import Baselines, read_metrics
from halspan.evaluation.saved_run import check_results
from halspan.training.ends import explained_ends
from halspan.training.rundir import RunDirectory

logger = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(config: DictConfig) -> None:
    """Judge a detector, an ensemble, or baselines alone."""
    try:
        evaluate(config)
    except HalspanError as error:
        sys.exit(report_error(error))  # not through hydra, which would add lines of its own


def evaluate(config: DictConfig) -> None:
    """Judge a detector, an ensemble, or baselines alone."""
    set_up_logging()
    require_alone("evaluate")
    configure.require_values(config)
    baselines = _read_baselines(config)
    if config.run is None:
        evaluate_baselines(config, baselines)
    else:
        folders = [config.run] if isinstance(config.run, str) else list(config.run)
        with _held(folders, config):
            evaluate_runs([FinishedRun.read(Path(folder), config) for folder in folders], config, baselines)


@contextmanager
def _held(folders: Sequence[str], config: DictConfig) -> Iterator[None]:
    """Lock the folder into which runs are judged; a folder that does not exist is left for the reader to report."""
    place = RunDirectory(_own_folder([Path(folder) for folder in folders], config))
    if not all(Path(folder).is_dir() for folder in folders):
        yield
        return
    if len(folders) > 1 and config.to is None:  # beside the runs, so not looked at with them
        check_results(place.path)
    with place.held(), explained_ends(place, to_go_on=None):
        yield


def evaluate_runs(runs: Sequence[FinishedRun], config: DictConfig, baselines: Baselines) -> None:
    """Score what runs were judged on once more, or another corpus; several runs as one detector."""
    first, judge = runs[0], configure.build(config.judge, "judge")
    check_same_split(runs)
    is_other = "_target_" in config.data
    if (config.data.path is None and not is_other) or (is_other and len(runs) > 1):
        check_draws_nothing(first.own)
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
    from halspan.app.judging_runs import judge_runs  # imports torch, which errors in the data should not wait for

    judge_runs(
        runs,
        corpus=corpus,
        sample=judge.choose(parts, seed=first.spec.seed),
        taken=taken,
        folder=folder,
        baselines=baselines,
        is_other=is_other,
        judge_spec=judge,
    )


def _read_baselines(config: DictConfig) -> Baselines:
    """Read which baselines to judge, and build the specs of those that are models."""
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


def evaluate_baselines(config: DictConfig, baselines: Baselines) -> None:
    """Judge baselines on a whole corpus; those that learn are fitted on other images than they are judged on."""
    if "_target_" not in config.data:
        raise ConfigError("run, data: neither is given; give run=FOLDER to judge a detector, or data=... for baselines")
    judge = configure.build(config.judge, "judge")
    corpus = configure.build(config.data, "data").load().relocated(None)
    folder = Path(config.to or f"checkpoints/baselines-{corpus.name}")
    _check_folder(folder, corpus)
    baselines.check()
    place = RunDirectory(folder)
    with place.held(), explained_ends(place, to_go_on=None):
        asked = replace(baselines, required=True)
        from halspan.app.judging_runs import judge_alone  # imports torch

        judge_alone(asked, corpus=corpus, judge_spec=judge, folder=folder, seed=config.seed)


def _folder(runs: Sequence[FinishedRun], other: Corpus | None, config: DictConfig) -> Path:
    """Return the folder for the results: the run, a folder beside the members of an ensemble, or `to`."""
    folder = _own_folder([run.place.path for run in runs], config)
    if other is None or config.to is not None:
        return folder
    return folder / "evaluations" / (other.name.strip(".") or "corpus")  # a file may be called "...jsonl"


def _own_folder(runs: Sequence[Path], config: DictConfig) -> Path:
    if config.to is not None:
        return Path(config.to)
    return runs[0] if len(runs) == 1 else runs[0].with_name("+".join(run.name for run in runs))


def _check_folder(folder: Path, corpus: Corpus) -> None:
    """Refuse to replace the figures of another corpus, even one with the same name.

    Raises:
        ConfigError: The folder holds figures of another corpus.
    """
    there = (read_metrics(folder).get("run") or {}).get("corpus") or {}
    if (digest := there.get("digest")) is not None and digest != Contents.of_corpus(corpus).digest:
        raise ConfigError(
            f"to: {folder} has the figures of another corpus, {there.get('name')} of {there.get('captions', 0):,} "
            "captions, or of this one before it changed; choose another folder with to=..., or remove this one"
        )


def _divide(corpus: Corpus, splits: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[Caption]], Taken]:
    """Divide another corpus, and leave out images that are in the train or val part of any run.

    Returns:
        The parts, and what training took from them.

    Raises:
        DataError: No captions are left.
    """
    known = {image for split in splits for part in (TRAIN, VAL) for image in split["parts"][part]["images"]}
    trained = {generator for split in splits for generator in split["generators"]["train"]}
    parts: dict[str, list[Caption]] = {TEST_SEEN: [], HELD_OUT: []}
    taken: dict[str, Counter[str]] = {part: Counter() for part in parts}
    for caption in corpus.captions:
        part = TEST_SEEN if caption.generator in trained else HELD_OUT
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


def _train_texts(splits: Sequence[Mapping[str, Any]]) -> KnownTexts | None:
    """Collect the texts that any of the runs was trained on; None where a run does not list its texts."""
    records = [split.get("texts", {}).get("train") for split in splits]
    if any(record is None for record in records):
        return None
    return reduce(or_, map(KnownTexts.from_record, records), KnownTexts())
