"""The training command: it fine-tunes a detector and judges it on generators it has never seen."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from halspan import console
from halspan.app import launching, sweep
from halspan.app.configuration import configure
from halspan.app.configuration.help import CONF
from halspan.app.configuration.settings import check_values, read_settings
from halspan.app.entry import EXIT_FAILED, report_error, run_entry, set_up_logging
from halspan.app.results import read_figures, show_figures
from halspan.app.resuming import check_contents, check_corpus, check_settings, flatten
from halspan.core.errors import HalspanError
from halspan.core.process import is_first_process
from halspan.data.corpus import Corpus
from halspan.data.inspection.problems import log_problems
from halspan.data.split.parts import SplitParts
from halspan.evaluation.saved_run import check_inside
from halspan.reporting.sweeps import main_figures
from halspan.training.ends import explained_ends
from halspan.training.interruption import Interrupted
from halspan.training.processes.group import Group, together
from halspan.training.run_spec import RunSpec, check_backward
from halspan.training.rundir import RunDirectory


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> float | None:
    """Run one training, or one job of a sweep, and return the objective of a sweep."""
    is_sweep = _is_sweep()
    if is_sweep:
        sweep.record_job(config, figures={}, error=launching.BEGUN, status=EXIT_FAILED)
    try:
        objective, figures = run(config)
    except Interrupted as end:
        if is_sweep:
            launching.put_back(end.number)
        raise
    except HalspanError as error:
        status = report_error(error)
        if not is_sweep:
            sys.exit(status)  # not through hydra, which would add lines of its own
        sweep.record_job(config, figures={}, error=str(error), status=status)
        return None
    if is_sweep:
        sweep.record_job(config, figures=figures, error=None, status=0)
    return objective


def _is_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def run(config: DictConfig) -> tuple[float | None, dict[str, float | None]]:
    """Train and judge one detector; return the objective of a sweep, and the main figures."""
    sweep.check_single(HydraConfig.get().overrides.task, HydraConfig.get().runtime.choices["split"])
    if config.plan is True:
        set_up_logging()
        from halspan.app.fitting import show_plan  # imports torch, which takes seconds

        show_plan(config)
        return None, {}
    spec: RunSpec = configure.build(config)
    set_up_logging()
    metrics = train(spec, OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]  # a mapping
    return (flatten(metrics).get(spec.objective), main_figures(metrics)) if metrics else (None, {})


def train(spec: RunSpec, settings: dict[str, Any]) -> dict[str, Any]:
    """Load, split, train and judge; everything is written into the run's folder.

    Args:
        spec: The run.
        settings: Its configuration, to be saved.

    Returns:
        Content of `metrics.json`; empty in processes other than the first.
    """
    check_values(settings)
    check_backward(spec.model, spec.trainer)
    place = RunDirectory(Path(spec.run_dir))
    to_go_on = "the same command" if spec.resume == "auto" else "the same command with resume=true"
    with (
        together(spec.trainer, to_go_on=to_go_on) as group,
        place.held(),
        explained_ends(place, to_go_on=to_go_on),
    ):
        return _train_in(place, spec, settings, group)


def _train_in(place: RunDirectory, spec: RunSpec, settings: dict[str, Any], group: Group) -> dict[str, Any]:
    goes_on = group.from_first(lambda: _check_place(place, spec, settings))
    corpus, parts = load_data(spec)

    def find_figures() -> dict[str, Any]:
        check_contents(place, corpus, parts)
        return _figures_so_far(place, settings)

    if goes_on and (metrics := group.from_first(find_figures)):
        if not is_first_process():
            return {}
        show_figures(metrics, place.path)
        return metrics

    from halspan.app.fitting import train_and_judge  # imports torch, which errors in the data should not wait for

    spec = replace(spec, resume=goes_on)
    return train_and_judge(spec, settings, place=place, corpus=corpus, parts=parts, group=group)


def _check_place(place: RunDirectory, spec: RunSpec, settings: dict[str, Any]) -> bool:
    """Check that the run may start in its folder, and return whether it continues there."""
    check_inside(place.path)
    if not (spec.resume or spec.overwrite):
        check_corpus(place, settings["data"])
    goes_on = place.check(resume=spec.resume, overwrite=spec.overwrite, is_one_of_many=_is_sweep())
    if goes_on:
        check_settings(place, settings)
    return goes_on


def load_data(spec: RunSpec) -> tuple[Corpus, SplitParts]:
    """Read and split the captions, and warn of probable mistakes in them.

    This comes before the slow import of torch, because problems with data are the most frequent ones.
    """
    with console.quiet_unless(is_first_process()):
        corpus = spec.data.load()
        log_problems(corpus)
        corpus = corpus.relocated(None)
        return corpus, spec.split.apply(corpus)


def _figures_so_far(place: RunDirectory, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a finished run; empty where work is left."""
    if not place.metrics.exists():
        return {}
    saved = read_settings(place.config)
    if any(saved.get(key) != settings[key] for key in ("trainer", "judge")):
        return {}
    return read_figures(place.metrics)


def start() -> None:
    """Complete the arguments of a sweep, then hand over to hydra."""
    sys.argv[1:] = sweep.prepare_arguments(sys.argv[1:])
    with launching.patient_launchers():
        main()


if __name__ == "__main__":  # the further processes of a training start this way
    run_entry(start, "config")
