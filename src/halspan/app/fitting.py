"""One run after its data have been read: plan, build, train, judge. Its imports take seconds."""

import json
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from halspan.app.configuration import configure, run_names
from halspan.app.configuration.settings import read_settings
from halspan.app.results import leave_figures, show_figures
from halspan.app.resuming import flatten
from halspan.console import open_console
from halspan.core.errors import ConfigError
from halspan.core.files import write_json, write_text
from halspan.core.process import is_first_process
from halspan.data.controls import read_image
from halspan.data.corpus import Corpus
from halspan.data.rows import group_rows
from halspan.data.split.contents import Contents
from halspan.data.split.parts import SplitParts
from halspan.evaluation.baselines.runner import IMAGE_BLIND
from halspan.evaluation.jobs import join_blocks, plan_jobs, score_blocks
from halspan.evaluation.judging import judge
from halspan.evaluation.origin import describe_process
from halspan.inference.scorer import Scorer
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.folder.write import identify_backbone
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.kept.keeping import Keeper, open_keeper
from halspan.models.kept.store import Store
from halspan.models.model_spec import ModelSpec
from halspan.models.plan.duration import Duration, estimate_duration
from halspan.models.plan.inventory import gib, take_inventory
from halspan.models.plan.memory import PassSize, Plan, make_plan
from halspan.models.plan.remedies import find_devices, find_enough, find_remedies, require_room, shrink_to_fit
from halspan.models.sharding.lockstep import in_step
from halspan.reporting.plans import show_tables, trainable_table, weights_table
from halspan.reporting.profile_page import write_profile_page
from halspan.training.encoding import EncodeRows
from halspan.training.fit import Progress, check_length, check_machine, fit, seed_process
from halspan.training.loggers import build_logger, finish_logger
from halspan.training.processes.group import Group
from halspan.training.run_spec import RunSpec, TrainerSpec, describe_recipe
from halspan.training.rundir import RunDirectory

logger = logging.getLogger(__name__)


def train_and_judge(
    spec: RunSpec, settings: dict[str, Any], *, place: RunDirectory, corpus: Corpus, parts: SplitParts, group: Group
) -> dict[str, Any]:
    """Train a detector on captions and judge it; everything is written into the run's folder.

    Args:
        spec: The run.
        settings: Its configuration, to be saved.
        place: Its folder.
        corpus: Its captions.
        parts: Their division.
        group: The processes that train together.

    Returns:
        Content of `metrics.json`; empty in processes other than the first.
    """
    check_machine(spec.trainer)
    if is_first_process():
        _check_plan(spec)
        _show_recipe(spec)
    seed_process(spec.trainer, spec.seed)
    detector, encoder = _build(spec, corpus)
    keeper = _open_keeper(spec, detector, encoder)
    group.from_first(lambda: _begin(place, spec, settings, corpus, parts))
    return _fit_and_judge(
        spec,
        settings,
        place=place,
        corpus=corpus,
        parts=parts,
        group=group,
        detector=detector,
        encoder=encoder,
        keeper=keeper,
    )


def make_scorer(detector: SpanDetector, encoder: RowEncoder, spec: RunSpec) -> Scorer:
    """Return the scorer of a run's detector on the run's machine."""
    device = torch.device("cuda" if spec.trainer.accelerator == "gpu" else "cpu")
    return Scorer(detector.to(device), encoder, spec.model)


def tokens_per_pass(spec: RunSpec) -> int:
    """Return the most tokens of a forward pass of judging: as many as training on one device would take.

    The scores of a run thus do not depend on the number of its devices.
    """
    trainer = spec.trainer
    return choose_pass(spec.model, replace(trainer, rows_per_batch=trainer.rows_per_batch * trainer.all_devices)).tokens


def choose_pass(model: ModelSpec, trainer: TrainerSpec) -> PassSize:
    """Return the size of a pass: the one that was asked for, or as large as every device has memory for."""
    share = -(-trainer.rows_per_batch // trainer.all_devices)
    whole = PassSize(
        tokens=share * model.pack_tokens,
        is_mixed=trainer.precision == "bf16-mixed",
        devices=trainer.all_devices if trainer.strategy == "fsdp" else None,
    )
    if trainer.tokens_per_pass != "auto":
        return replace(whole, tokens=trainer.tokens_per_pass)
    devices = find_devices(trainer.accelerator, trainer.devices)
    return shrink_to_fit(model, whole, free=min((device.free for device in devices), default=None))


def show_plan(config: DictConfig) -> None:
    """Print the memory a run needs and whether the devices here have it; data and weights are not read."""
    model, trainer = (configure.build(config[key], key) for key in ("model", "trainer"))
    size = choose_pass(model, trainer)
    plan = make_plan(model, size)
    devices = find_devices(trainer.accelerator, trainer.devices)
    is_short = any(plan.peak > device.free for device in devices)
    remedies = find_remedies(model, size, plan) if is_short else []
    may_share = trainer.accelerator == "gpu" and (trainer.strategy == "fsdp" or is_short or not devices)
    enough = find_enough(model, size, plan, devices) if may_share else []
    duration = _estimate_duration(plan, trainer) if devices else None
    for part in show_tables(plan, devices, remedies, enough, duration):
        open_console().print(part)


def _estimate_duration(plan: Plan, trainer: TrainerSpec) -> Duration:
    """Estimate the time of a run, or of 1,000 rows where its number of rows follows from the corpus."""
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    return estimate_duration(
        plan.skeleton,
        rows=1000 if trainer.max_steps is None else trainer.max_steps * trainer.rows_per_batch,
        device=torch.device("cuda" if trainer.accelerator == "gpu" else "cpu"),
        is_mixed=trainer.precision == "bf16-mixed",
        devices=trainer.all_devices,
    )


def _check_plan(spec: RunSpec) -> None:
    """Refuse a run that does not fit, and LoRA targets that match nothing, before data or weights are read."""
    size = choose_pass(spec.model, spec.trainer)
    plan = make_plan(spec.model, size)
    devices = find_devices(spec.trainer.accelerator, spec.trainer.devices)
    require_room(spec.model, size, plan, devices)
    logger.info(
        "plan: passes of at most %d tokens, %s at the peak, of %s free (plan=true shows it)",
        size.tokens,
        gib(plan.peak),
        gib(devices[0].free),
    )


def _show_recipe(spec: RunSpec) -> None:
    """Log the choices and the training recipe; warn of settings that were made for something else."""
    recipe = describe_recipe(spec.trainer, spec.optimizer)
    if not HydraConfig.initialized():
        logger.info("%s", recipe)
        return
    chosen = HydraConfig.get().runtime.choices
    names = [f"{group}={chosen[group]}" for group in ("experiment", "data", "model") if chosen.get(group)]
    logger.info("%s: %s", " ".join(names), recipe)
    for warning in run_names.find_borrowed(HydraConfig.get()):
        logger.warning("%s", warning)


def _build(spec: RunSpec, corpus: Corpus) -> tuple[SpanDetector, RowEncoder]:
    detector, encoder = build_detector(spec.model, corpus.taxonomy, in_shards=spec.trainer.strategy == "fsdp")
    if is_first_process():
        open_console().print(weights_table(take_inventory(detector)), "")
        open_console().print(trainable_table(detector.trainable_parameters_by_component()))
    return detector, encoder


def _open_keeper(spec: RunSpec, detector: SpanDetector, encoder: RowEncoder) -> Keeper | None:
    """Return a keeper for features of images, if they are to be kept; those of gray images never are."""
    trainer = spec.trainer
    if trainer.keep_images is False or spec.blank_images:
        return None
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "halspan" / "images" if trainer.keep_folder is None else Path(trainer.keep_folder)
    return open_keeper(
        detector,
        encoder,
        spec.model,
        store=Store(folder, gib=trainer.keep_gib),
        is_on=trainer.keep_images is True,
        autocast=torch.bfloat16 if trainer.precision == "bf16-mixed" else None,
        device="cuda" if trainer.accelerator == "gpu" else "cpu",
    )


def _begin(place: RunDirectory, spec: RunSpec, settings: dict[str, Any], corpus: Corpus, parts: SplitParts) -> None:
    """Write the run's record, now that its data and its model are there."""
    before = _origin_so_far(place) if spec.resume else []
    place.prepare(overwrite=spec.overwrite)
    rows = group_rows(corpus, parts.train, max_captions=spec.trainer.captions_per_row)
    check_length(place, spec.trainer, n_rows=len(rows))
    place.metrics.unlink(missing_ok=True)  # without this file, the run counts as unfinished
    kept = settings | {"resume": False, "overwrite": False, "origin": [*before, describe_process()]}
    write_text(place.config, OmegaConf.to_yaml(OmegaConf.create(kept)))
    origin = {
        "taxonomy": list(corpus.taxonomy),
        "source": dict(corpus.source),
        "skipped": dict(corpus.skipped),
        "backbone": identify_backbone(spec.model),  # an export with another backbone is refused
    }
    contents = Contents.of(corpus.captions, parts.image_hashes).to_record()
    write_json(place.split, origin | parts.to_record() | {"contents": contents})
    for part, captions in parts.parts().items():
        logger.info("%s: %d captions", part, len(captions))


def _show_profile(place: RunDirectory) -> None:
    """Write the page of a measured run, if this one was."""
    if place.profile.exists():
        page = place.path / "profile.html"
        write_profile_page(page, json.loads(place.profile.read_text()), title=place.path.name)
        logger.info("where the time of a step goes: %s", page)


def _origin_so_far(place: RunDirectory) -> list[Any]:
    """Read from a run's configuration which processes have trained it."""
    origin = read_settings(place.config).get("origin") if place.is_run else None
    return origin if isinstance(origin, list) else []


def _fit_and_judge(
    spec: RunSpec,
    settings: dict[str, Any],
    *,
    place: RunDirectory,
    corpus: Corpus,
    parts: SplitParts,
    group: Group,
    detector: SpanDetector,
    encoder: RowEncoder,
    keeper: Keeper | None,
) -> dict[str, Any]:
    _check_same_folder(place, group)
    curves = build_logger(spec.logger, place, name=spec.run_name, settings=settings)
    metrics: dict[str, Any] = {}
    try:
        progress = fit(
            detector,
            train=group_rows(corpus, parts.train, max_captions=spec.trainer.captions_per_row),
            val=group_rows(corpus, parts.val, max_captions=spec.trainer.captions_per_row),
            encode=EncodeRows(
                encoder, partial(read_image, blank=spec.blank_images), None if keeper is None else keeper.lookup
            ),
            tokens_per_pass=choose_pass(spec.model, spec.trainer).tokens,
            run=place,
            trainer=spec.trainer,
            optimizer=spec.optimizer,
            loss=spec.loss,
            curves=curves,
            seed=spec.seed,
            keeper=keeper,
        )
        if is_first_process():
            _show_profile(place)
        metrics = _judge(
            spec,
            place=place,
            corpus=corpus,
            parts=parts,
            group=group,
            scorer=make_scorer(detector, encoder, spec),
            n_halvings=progress.halvings,
        )
    finally:
        finish_logger(curves, {path: value for path, value in flatten(metrics).items() if isinstance(value, float)})
    return metrics


def _check_same_folder(place: RunDirectory, group: Group) -> None:
    """Require that all processes continue from the same step."""
    if group.count == 1:
        return
    of_first, own = group.from_first(lambda: Progress.read(place).step), Progress.read(place).step
    if own != of_first:
        raise ConfigError(
            f"run_dir: {place.path} has a checkpoint after step {own} here, and one after step {of_first} where the "
            "first process is; all machines need the same folder: put it on a shared disk"
        )


def _judge(
    spec: RunSpec,
    *,
    place: RunDirectory,
    corpus: Corpus,
    parts: SplitParts,
    group: Group,
    scorer: Scorer,
    n_halvings: int,
) -> dict[str, Any]:
    """Score each process's share of the captions; the first one judges them and writes everything."""
    sample = spec.judge.choose(parts.parts(), seed=spec.seed)
    jobs, not_exchanged = plan_jobs(corpus, sample.parts, seed=spec.seed)
    with in_step(scorer.detector):
        blocks = score_blocks(
            scorer,
            jobs,
            captions_per_row=spec.trainer.captions_per_row,
            batch_tokens=group.from_first(lambda: tokens_per_pass(spec)),  # free memory may differ
            blank_images=spec.blank_images,
            rank=group.rank,
            count=group.count,
        )
    if not (shares := group.gather(blocks)):
        return {}
    scored = join_blocks(shares, jobs, scorer=scorer, name=place.path.name, taxonomy=corpus.taxonomy)
    metrics, predictions = judge(
        [scored],
        corpus=corpus,
        sample=sample,
        folder=place.path,
        seed=spec.seed,
        baselines=IMAGE_BLIND,
        not_exchanged=not_exchanged,
        taken=parts.taken,
    )
    metrics["run"] |= {"halved_passes": n_halvings}
    leave_figures(metrics, predictions, place.path)
    show_figures(metrics, place.path)
    return metrics
