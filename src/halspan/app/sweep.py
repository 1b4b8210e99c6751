"""Sweeps: one run per generator, a record of each job, `sweep.json`, and a table at the end."""

import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.conf import RuntimeConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from halspan.app import launching
from halspan.app.configuration import arguments as command_line
from halspan.app.configuration import configure, run_names
from halspan.app.configuration.help import CONF
from halspan.core.errors import ConfigError
from halspan.core.files import write_json
from halspan.core.process import is_first_process

_MULTIRUN_FLAGS = ("-m", "--multirun")
_LEAVE_ONE_OUT = "leave_one_out"
_NO_IDENTITY = ("experiment", "data", "model", "run_dir", "resume", "overwrite")  # the list of conf/config.yaml
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.-]*")


def prepare_arguments(arguments: Sequence[str]) -> list[str]:
    """Complete the arguments of a sweep: a folder for it, and `split=leave_one_out` as one run per generator.

    Args:
        arguments: Command line without the program; returned unchanged if it is not a sweep.

    Raises:
        ConfigError: A job cannot work, `--cfg` is combined with `-m`, or the corpus differs between the runs of
            `split=leave_one_out`.
    """
    if not any(argument in _MULTIRUN_FLAGS for argument in arguments):
        return list(arguments)
    if any(argument.startswith("--cfg") or argument == "-c" for argument in arguments):
        raise ConfigError("--cfg: it shows the configuration of one run, -m makes several; take one of them away")
    given = [argument for argument in arguments if command_line.is_override(argument)]
    overrides = OverridesParser.create().parse_overrides(given)
    added = []
    fixed = [_line(override) for override in overrides if not override.is_sweep_override()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=fixed, return_hydra_config=True)
    if "hydra.sweep.dir" not in _keys(overrides):
        added.append(f"hydra.sweep.dir='{Path('checkpoints') / _name_sweep(overrides, config.hydra.runtime)}'")
    if config.hydra.runtime.choices.split == _LEAVE_ONE_OUT and "split.held_out" not in _keys(overrides):
        added.append(f"split.held_out={','.join(f'[{name}]' for name in _generators(config, overrides))}")
    added += launching.processes_of_jobs(config, [*_keys(overrides)])
    _check_values(overrides, config.hydra.runtime.choices.get("hydra/launcher"))
    kept = [argument for argument in arguments if argument != f"split={_LEAVE_ONE_OUT}"]
    return command_line.add_overrides(kept, added)


def check_single(overrides: Sequence[str], split: str) -> None:
    """Refuse leave-one-out in a single run.

    Args:
        overrides: Overrides of the run.
        split: The chosen file of the group.

    Raises:
        ConfigError: The run asks for leave-one-out.
    """
    if split == _LEAVE_ONE_OUT and not any(line.startswith("split.held_out=") for line in overrides):
        raise ConfigError(
            "split: leave_one_out is one run per generator, this is a single run; add -m, or name generators: "
            "split.held_out='[...]'"
        )


def check_job(config: DictConfig, launcher: str | None = None) -> None:
    """Refuse settings that cannot work in a job of a sweep.

    Args:
        config: Configuration of the job.
        launcher: Name of what launches jobs.

    Raises:
        ConfigError: A plan, several devices without a launcher that starts their processes, or one folder for all runs.
    """
    if config.plan:
        raise ConfigError("plan: true is not possible in a sweep; plan one run: take -m away")
    if (config.trainer.devices, config.trainer.nodes) != (1, 1) and launcher not in launching.SUBMITIT:
        raise ConfigError(
            f"trainer.devices: {config.trainer.devices} is not possible in a sweep on this machine: the other "
            "processes of a job would start the whole sweep again; set trainer.devices=1 (trainer=gpu or trainer=cpu), "
            "or let jobs have processes: hydra/launcher=submitit_slurm"
        )
    unresolved: Any = OmegaConf.to_container(config, resolve=False)
    if "${run_name}" not in unresolved["run_dir"]:
        raise ConfigError(
            f"run_dir: {config.run_dir} is one folder for all runs of a sweep; give each its own: "
            "run_dir='FOLDER/${run_name}'"
        )


def record_job(config: DictConfig, *, figures: Mapping[str, float | None], error: str | None, status: int) -> None:
    """Save the outcome of a sweep's job for the end of the sweep, in the first of its processes.

    Args:
        config: The job's configuration.
        figures: Its main figures by dotted path; empty if it failed.
        error: Message of the error that ended the job; None if there was none.
        status: Exit status that a single run would have had.
    """
    if not is_first_process():
        return
    hydra = HydraConfig.get()
    record = {
        "run_name": config.run_name,
        "run_dir": config.run_dir,
        "overrides": list(hydra.overrides.task),
        "status": status,
        "error": error,
        "figures": dict(figures),
    }
    write_json(launching.job_file(hydra.sweep.dir, hydra.job.num), record)


class SweepReport(Callback):
    """Hydra callback that writes `sweep.json` and a table of all runs, with mean and standard deviation."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Remove the jobs of an earlier sweep of the same name."""
        shutil.rmtree(_jobs_folder(config.hydra.sweep.dir), ignore_errors=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Write and print the results of all jobs; exit with the worst job's status."""
        from halspan.console import open_console
        from halspan.reporting.sweeps import summarize_sweep, sweep_tables

        folder = Path(config.hydra.sweep.dir)
        jobs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(_jobs_folder(folder).glob("*.json"))]
        summary = summarize_sweep(jobs)
        write_json(folder / "sweep.json", {"overrides": list(config.hydra.overrides.task), **summary})
        console = open_console()
        for table in sweep_tables(summary):
            console.print(table)
        console.print(f"Written to {folder / 'sweep.json'}", soft_wrap=True)
        shutil.rmtree(_jobs_folder(folder), ignore_errors=True)
        if status := max((job["status"] for job in jobs), default=0):
            sys.exit(status)


def _check_values(overrides: Sequence[Override], launcher: str | None) -> None:
    """Build the specs for each swept value, with the others at their first value, before any job runs."""
    swept = {
        override.get_key_element(): [*override.sweep_string_iterator()]
        for override in overrides
        if override.is_sweep_override() and override.is_discrete_sweep()
    }
    fixed = [_line(override) for override in overrides if not override.is_sweep_override()]
    first = {key: values[0] for key, values in swept.items()}
    jobs = [first, *({**first, key: value} for key, values in swept.items() for value in values[1:])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for job in jobs:
            config = compose("config", overrides=[*fixed, *(f"{key}={value}" for key, value in job.items())])
            check_job(config, launcher)
            configure.build(config)


def _jobs_folder(sweep_dir: str | Path) -> Path:
    return Path(sweep_dir) / "jobs"


def _line(override: Override) -> str:
    """Return an override as it was typed."""
    return override.input_line or ""


def _keys(overrides: Sequence[Override]) -> set[str]:
    return {override.key_or_group for override in overrides}


def _name_sweep(overrides: Sequence[Override], runtime: RuntimeConf) -> str:
    """Name a sweep by the rule for its runs, with all values at once."""
    lines = {override.key_or_group: _line(override) for override in overrides}
    kept = [line for key, line in sorted(lines.items()) if not key.startswith("hydra") and key not in _NO_IDENTITY]
    values = {key: line.partition("=")[2] for key, line in lines.items()}
    choices = {group: values.get(group, runtime.choices.get(group)) for group in ("experiment", "data", "model")}
    if any(override.key_or_group == "experiment" and override.is_sweep_override() for override in overrides):
        base = run_names.plain(values["experiment"])
        kept = [lines[group] for group in ("data", "model") if group in lines] + kept
    else:
        base, *more = run_names.name_choices(choices, runtime)
        kept = more + kept
    return run_names.name_run(base, RunMode.MULTIRUN, "-".join(kept))


def _generators(config: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """List the generators of the corpus that all runs of the sweep share."""
    for override in overrides:
        key = override.key_or_group
        if override.is_sweep_override() and (key in ("data", "experiment") or key.startswith("data.")):
            raise ConfigError(
                f"{key}: a sweep over corpora and split=leave_one_out are possible one after the other only, since "
                "each corpus has its own generators; sweep over one of them"
            )
    generators = configure.build(config.data, "data").load().generators
    return [name if _PLAIN_NAME.fullmatch(name) else "'" + name.replace("'", r"\'") + "'" for name in generators]
