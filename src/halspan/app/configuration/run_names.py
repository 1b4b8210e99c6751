"""The name of a run, which identifies it: the options chosen and, in a sweep, the values set."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hydra.conf import HydraConf, RuntimeConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

QUICKSTART = "shapes"
"""The quickstart's experiment, and its data and its model."""

_LONGEST_NAME = 180  # characters


def current_run_name() -> str:
    """Return the name of the run whose configuration is being resolved; outside hydra, it is "run"."""
    if not HydraConfig.initialized():
        return "run"
    hydra = HydraConfig.get()
    base, *more = name_choices(hydra.runtime.choices, hydra.runtime)
    return name_run(base, hydra.mode, "-".join(filter(None, [*more, hydra.job.override_dirname])))


def name_choices(choices: Mapping[str, str | None], runtime: RuntimeConf) -> list[str]:
    """Name what was chosen: an experiment with its own data and model by itself, anything else DATA-MODEL.

    Args:
        choices: The chosen file of each group.
        runtime: Hydra's record of the run, which locates its experiments.

    Returns:
        The name; then the experiment, if it is not the name, since two of them may share data and model.
    """
    experiment, chosen = choices.get("experiment"), {group: choices[group] for group in ("data", "model")}
    if experiment and chosen.items() <= _read_experiment(experiment, runtime)[0].items():
        return [plain(experiment)]
    base = plain(f"{chosen['data']}-{chosen['model']}")
    return [base, f"experiment={experiment}"] if experiment else [base]


def name_run(base: str, mode: RunMode | None, overrides: str) -> str:
    """Name a run by the choices and, in a sweep, by its overrides; the name is one folder on any file system."""
    if mode != RunMode.MULTIRUN or not overrides:
        return base
    name = f"{base}-{plain(overrides)}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{sha256(name.encode()).hexdigest()[:8]}"


def plain(text: str) -> str:
    """Remove brackets and quotes, and write characters that a folder's name cannot hold as %XX."""
    return quote(text.translate(str.maketrans("", "", "[]{}'\" ")), safe="=,.+-_~")


OmegaConf.register_new_resolver("run_name", current_run_name, replace=True)


def find_borrowed(hydra: HydraConf) -> Iterator[str]:
    """Describe settings made for other data or another model that the command line does not name.

    Args:
        hydra: Hydra's record of the run.
    """
    chosen, experiment = hydra.runtime.choices, hydra.runtime.choices.get("experiment")
    given = {override.partition("=")[0] for override in hydra.overrides.task}
    own, numbers = _read_experiment(experiment, hydra.runtime) if experiment else ({}, {})
    rates = [f"optimizer.{key}={value}" for key, value in numbers.get("optimizer", {}).items()]
    rates = [rate for rate in rates if rate.partition("=")[0] not in given]
    if rates and own.get("model") not in (None, chosen["model"]):
        yield (
            f"{', '.join(rates)}: experiment={experiment} has them for model={own['model']}, not for "
            f"{chosen['model']}; set them, or leave the experiment out"
        )
    if not experiment and chosen["model"] == QUICKSTART != chosen["data"] and "model" not in given:
        yield f"model={chosen['model']} has seen the shapes world alone; choose one for your images: model=..."


def _read_experiment(name: str, runtime: RuntimeConf) -> tuple[dict[str, str], dict[str, Any]]:
    """Read which group files an experiment chooses, and the whole content of its file."""
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    for file in [folder / "experiment" / f"{name}.yaml" for folder in folders]:
        if file.is_file():
            numbers: Any = OmegaConf.to_container(OmegaConf.load(file))
            lines = [line for line in numbers.get("defaults", []) if isinstance(line, dict)]
            return {key.removeprefix("override /"): value for line in lines for key, value in line.items()}, numbers
    return {}, {}
