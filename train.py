"""Train a detector and judge it on generators it never saw: `python train.py --help`."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import configure
import judge
import sweep
import usage
from baselines import IMAGE_BLIND
from evaluate import read_figures
from halspan.core.errors import ConfigError, HalspanError
from halspan.core.files import write_json, write_text
from halspan.core.settings import check_values, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from halspan.data.corpus import Corpus
    from halspan.data.rows import Row
    from halspan.data.split import SplitParts
    from halspan.models.batch import Batch
    from halspan.models.detector import SpanDetector
    from halspan.models.encoding import RowEncoder
    from halspan.models.plan import PassSize
    from halspan.training.rundir import RunDirectory
    from halspan.training.spec import RunSpec, TrainerSpec

logger = logging.getLogger("halspan.train")

# What makes a run that run: a resumed one must agree in it. Where its corpus lies may change, what is in it may not.
_IDENTITY = ("data", "model", "split", "optimizer", "loss", "seed", "blank_images")
_ROWS = {"trainer.rows_per_batch", "trainer.captions_per_row"}  # with them the rows of an optimiser step change
_MAY_MOVE = {"data.path", "data.images"}


@hydra.main(version_base="1.3", config_path=str(usage.CONF), config_name="config")
def main(config: DictConfig) -> float | None:
    """Do one run; in a sweep, one job of it. Gives the objective of a sweep."""
    is_sweep = _is_sweep()
    try:
        objective, figures = run(config)
    except HalspanError as error:
        status = configure.report_error(error)
        if not is_sweep:
            sys.exit(status)  # past hydra, which would add lines of its own
        sweep.record_job(config, figures={}, error=str(error), status=status)
        return None
    if is_sweep:
        sweep.record_job(config, figures=figures, error=None, status=0)
    return objective


def _is_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def run(config: DictConfig) -> tuple[float | None, dict[str, float | None]]:
    """Train and judge one detector; give the objective of a sweep, and the main figures."""
    sweep.check_single(HydraConfig.get().overrides.task, HydraConfig.get().runtime.choices.split)
    if config.plan is True:
        configure.set_up_logging()
        show_plan(config)
        return None, {}
    spec: RunSpec = configure.build(config)
    configure.set_up_logging()
    settings = OmegaConf.to_container(config, resolve=True)
    metrics = train(spec, settings)
    from halspan.reporting.sweeps import main_figures  # imports torch, which what is wrong with data need not wait for

    return (flatten(metrics).get(spec.objective), main_figures(metrics)) if metrics else (None, {})


def show_plan(config: DictConfig) -> None:
    """Print what memory a run needs and whether the devices there are have it; neither data nor weights are read."""
    from halspan.console import open_console
    from halspan.models.plan import make_plan
    from halspan.models.remedies import find_devices, find_remedies
    from halspan.reporting.plans import show_tables

    model, trainer = (configure.build(config[key], key) for key in ("model", "trainer"))
    size = _pass_size(trainer)
    plan = make_plan(model, size)
    devices = find_devices(trainer.accelerator, trainer.devices)
    is_short = any(plan.peak > device.free for device in devices)
    remedies = find_remedies(model, size, plan) if is_short else []
    for part in show_tables(plan, devices, remedies):
        open_console().print(part)


def train(spec: "RunSpec", settings: dict[str, Any]) -> dict[str, Any]:
    """Load, split, train, judge; leave everything in the run directory.

    Args:
        spec: the run.
        settings: its configuration, to be kept.

    Returns:
        What `metrics.json` holds; nothing in the processes that only help a first one to train.
    """
    from halspan.training.ends import explained_ends
    from halspan.training.rundir import RunDirectory

    check_values(settings)
    place = RunDirectory(Path(spec.run_dir))
    with place.held(), explained_ends(place, can_resume=True):
        return _train_in(place, spec, settings)


def _train_in(place: "RunDirectory", spec: "RunSpec", settings: dict[str, Any]) -> dict[str, Any]:
    from halspan.training.rundir import is_first_process
    from halspan.training.saved_run import check_inside

    if is_first_process():
        check_inside(place.path)
        if not (spec.resume or spec.overwrite):
            _check_corpus(place, settings["data"])
        place.check(resume=spec.resume, overwrite=spec.overwrite, is_one_of_many=_is_sweep())
        if spec.resume:
            _check_settings(place, settings)
    corpus, parts = load_data(spec)
    if is_first_process() and spec.resume:
        _check_contents(place, corpus, parts)
        if metrics := _figures_so_far(place, settings):
            judge.show_figures(metrics, place.path)
            return metrics
    from halspan.training.fit import check_machine, seed_process

    check_machine(spec.trainer)
    if is_first_process():
        _check_plan(spec)
        _show_recipe(spec)
    seed_process(spec.trainer, spec.seed)
    detector, encoder = _build(spec, corpus)
    if is_first_process():
        _begin(place, spec, settings, corpus, parts)
    return _fit_and_judge(spec, settings, place=place, corpus=corpus, parts=parts, detector=detector, encoder=encoder)


def load_data(spec: "RunSpec") -> tuple["Corpus", "SplitParts"]:
    """Read and split the captions, and warn of what is probably wrong with them.

    This comes before the seconds that it takes to import torch: what is wrong with data is what users see most.
    """
    from halspan.data.problems import log_problems
    from halspan.training.rundir import is_first_process

    corpus = spec.data.load()
    if is_first_process():
        log_problems(corpus)
    corpus = corpus.relocated(None)
    return corpus, spec.split.apply(corpus)


def _check_corpus(place: "RunDirectory", data: Mapping[str, Any]) -> None:
    """Send a run to a folder of its own where there is one of the same name on another corpus.

    Raises:
        ConfigError: there is; names that corpus and a folder.
    """
    if not (place.is_run and (place.metrics.exists() or place.last.exists())):
        return
    saved = read_settings(place.config).get("data")
    here, there = data.get("path"), saved.get("path") if isinstance(saved, Mapping) else None
    if here and isinstance(there, str) and Path(here).resolve() != Path(there).resolve():
        raise ConfigError(
            f"run_dir: {place.path} holds a run on another corpus, {there}; keep it, and give this one a folder of "
            f"its own: run_dir={place.path}-{Path(here).stem}"
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give every leaf by its dotted path."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _show_recipe(spec: "RunSpec") -> None:
    """Log what was chosen and how it trains; warn of what was made for something else."""
    from halspan.training.spec import describe_recipe

    recipe = describe_recipe(spec.trainer, spec.optimizer)
    if not HydraConfig.initialized():
        logger.info("%s", recipe)
        return
    chosen = HydraConfig.get().runtime.choices
    names = [f"{group}={chosen[group]}" for group in ("experiment", "data", "model") if chosen.get(group)]
    logger.info("%s: %s", " ".join(names), recipe)
    for warning in configure.find_borrowed(HydraConfig.get()):
        logger.warning("%s", warning)


def _check_plan(spec: "RunSpec") -> None:
    """Refuse what cannot fit, and LoRA targets that match nothing, before any data or weights are read."""
    from halspan.models.inventory import gib
    from halspan.models.plan import make_plan
    from halspan.models.remedies import find_devices, require_room

    size = _pass_size(spec.trainer)
    plan = make_plan(spec.model, size)
    devices = find_devices(spec.trainer.accelerator, spec.trainer.devices)
    require_room(spec.model, size, plan, devices)
    logger.info("plan: %s at the peak, of %s free (plan=true shows it)", gib(plan.peak), gib(devices[0].free))


def _pass_size(trainer: "TrainerSpec") -> "PassSize":
    from halspan.models.plan import PassSize

    return PassSize(rows=trainer.largest_pass, is_mixed=trainer.precision == "bf16-mixed")


def _build(spec: "RunSpec", corpus: "Corpus") -> tuple["SpanDetector", "RowEncoder"]:
    from halspan.console import open_console
    from halspan.models.detector import build_detector
    from halspan.models.inventory import take_inventory
    from halspan.reporting.tables import trainable_table, weights_table
    from halspan.training.rundir import is_first_process

    detector, encoder = build_detector(spec.model, corpus.taxonomy)
    if is_first_process():
        open_console().print(weights_table(take_inventory(detector)), "")
        open_console().print(trainable_table(detector.trainable_parameters_by_component()))
    return detector, encoder


def _begin(
    place: "RunDirectory", spec: "RunSpec", settings: dict[str, Any], corpus: "Corpus", parts: "SplitParts"
) -> None:
    """Write down what the run is, now that its data and its model are there."""
    from halspan.data.contents import Contents
    from halspan.data.rows import group_rows
    from halspan.models.export import identify_backbone
    from halspan.reporting.origin import describe_process
    from halspan.training.fit import check_length

    before = _origin_so_far(place) if spec.resume else []
    place.prepare(overwrite=spec.overwrite)
    rows = group_rows(corpus, parts.train, max_captions=spec.trainer.captions_per_row)
    check_length(place, spec.trainer, n_rows=len(rows))
    place.metrics.unlink(missing_ok=True)  # from here on the run is unfinished, whatever ends it
    kept = settings | {"resume": False, "overwrite": False, "origin": [*before, describe_process()]}
    write_text(place.config, OmegaConf.to_yaml(OmegaConf.create(kept)))
    origin = {
        "taxonomy": list(corpus.taxonomy),
        "source": dict(corpus.source),
        "skipped": dict(corpus.skipped),
        "backbone": identify_backbone(spec.model),  # an export of another one is refused
    }
    contents = Contents.of(corpus.captions, parts.image_hashes).to_record()
    write_json(place.split, origin | parts.to_record() | {"contents": contents})
    for part, captions in parts.parts().items():
        logger.info("%s: %d captions", part, len(captions))


def _origin_so_far(place: "RunDirectory") -> list[Any]:
    """Read what the configuration of a run says about the processes that have trained it."""
    origin = read_settings(place.config).get("origin") if place.is_run else None
    return origin if isinstance(origin, list) else []


def _fit_and_judge(
    spec: "RunSpec",
    settings: dict[str, Any],
    *,
    place: "RunDirectory",
    corpus: "Corpus",
    parts: "SplitParts",
    detector: "SpanDetector",
    encoder: "RowEncoder",
) -> dict[str, Any]:
    from halspan.data.rows import group_rows
    from halspan.training.fit import fit
    from halspan.training.loggers import build_logger, finish_logger
    from halspan.training.rundir import is_first_process

    curves = build_logger(spec.logger, place, name=spec.run_name, settings=settings)
    metrics: dict[str, Any] = {}
    try:
        fit(
            detector,
            train=group_rows(corpus, parts.train, max_captions=spec.trainer.captions_per_row),
            val=group_rows(corpus, parts.val, max_captions=spec.trainer.captions_per_row),
            encode=_encode(encoder, blank=spec.blank_images),
            run=place,
            trainer=spec.trainer,
            optimizer=spec.optimizer,
            loss=spec.loss,
            curves=curves,
            seed=spec.seed,
        )
        if is_first_process():
            tasks, not_exchanged = judge.plan_tasks(corpus, parts.parts(), seed=spec.seed)
            scored = judge.score_tasks(detector, encoder, spec, tasks, name=place.path.name, taxonomy=corpus.taxonomy)
            metrics = judge.judge(
                [scored],
                corpus=corpus,
                parts=parts.parts(),
                folder=place.path,
                seed=spec.seed,
                baselines=IMAGE_BLIND,
                not_exchanged=not_exchanged,
                taken=parts.taken,
            )
            judge.show_figures(metrics, place.path)
    finally:
        finish_logger(curves, {path: value for path, value in flatten(metrics).items() if isinstance(value, float)})
    return metrics


def _encode(encoder: "RowEncoder", *, blank: bool) -> "Callable[[Sequence[Row]], Batch]":
    """Make a batch of rows, with their images read."""
    from halspan.data.blind import read_image

    def encode(rows: "Sequence[Row]") -> "Batch":
        return encoder.collate([encoder.encode(read_image(row.image, blank=blank), row.captions) for row in rows])

    return encode


def _check_settings(place: "RunDirectory", settings: dict[str, Any]) -> None:
    """Require the settings that make a run that run.

    Raises:
        ConfigError: the folder holds a run with others.
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
    """Give what a run is known by, by dotted path."""
    rows = {key: value for key, value in flatten({"trainer": settings.get("trainer")}).items() if key in _ROWS}
    return flatten({key: settings.get(key) for key in _IDENTITY}) | rows


def _check_contents(place: "RunDirectory", corpus: "Corpus", parts: "SplitParts") -> None:
    """Require that a run that has begun to train goes on with the captions, labels, images and parts that it had.

    Raises:
        ConfigError: some are others.
    """
    if not (place.last.exists() or place.metrics.exists()):
        return
    from halspan.data.contents import find_changes
    from halspan.training.saved_run import read_split

    if changes := find_changes(read_split(place.split), corpus, parts, in_order=True):
        raise ConfigError(
            f"data.path: the corpus is not the one that the run in {place.path} has: {'; '.join(changes)}; resume the "
            "run with its own corpus, choose another run_dir, or start again with overwrite=true"
        )


def _figures_so_far(place: "RunDirectory", settings: dict[str, Any]) -> dict[str, Any]:
    """Give the figures of a run that is done; none where something is left to do."""
    if not place.metrics.exists():
        return {}
    if read_settings(place.config).get("trainer") != settings["trainer"]:
        return {}
    return read_figures(place.metrics)


def start() -> None:
    """Complete the arguments of a sweep, then hand over to hydra."""
    sys.argv[1:] = sweep.prepare_arguments(sys.argv[1:])
    # Launchers start interpreters of their own, which have to find the modules beside this file.
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([known] if known else [])])
    main()


if __name__ == "__main__":
    configure.run_entry(start, "config")
