"""From the command line to typed objects: what train.py, evaluate.py and export.py share; hydra ends here."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

import usage
from halspan import console
from halspan.core import specs
from halspan.core.checks import suggest
from halspan.core.errors import ConfigError, HalspanError
from halspan.core.threads import keep_threads_from_spinning
from halspan.training.interruption import Interrupted, Signals
from halspan.training.rundir import is_first_process

EXIT_FAILED = 1
EXIT_USAGE = 2
_LONGEST_NAME = 180  # characters
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=]*)=(.*)'")
_TRAINING = "config"  # the root configuration of train.py, which has experiments
_QUICKSTART = "shapes"  # its experiment, and the data and the model of it


def current_run_name() -> str:
    """Name the run whose configuration is being resolved; without hydra around it, it has no name of its own."""
    if not HydraConfig.initialized():
        return "run"
    hydra = HydraConfig.get()
    base, *more = name_choices(hydra.runtime.choices, hydra.runtime)
    return name_run(base, hydra.mode, "-".join(filter(None, [*more, hydra.job.override_dirname])))


def name_choices(choices: Mapping[str, str | None], runtime: DictConfig) -> list[str]:
    """Name what was chosen: an experiment with its own data and model by itself, anything else DATA-MODEL.

    Args:
        choices: the chosen file of each group.
        runtime: what hydra knows of the run, for where its experiments lie.

    Returns:
        The name; then the experiment, if it is not the name, since two of them may share data and model.
    """
    experiment, chosen = choices.get("experiment"), {group: choices[group] for group in ("data", "model")}
    if experiment and chosen.items() <= _read_experiment(experiment, runtime)[0].items():
        return [plain(experiment)]
    base = plain(f"{chosen['data']}-{chosen['model']}")
    return [base, f"experiment={experiment}"] if experiment else [base]


def name_run(base: str, mode: RunMode, overrides: str) -> str:
    """Name a run by what was chosen and, in a sweep, by its overrides; a name is one folder, on any file system."""
    if mode != RunMode.MULTIRUN or not overrides:
        return base
    name = f"{base}-{plain(overrides)}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{sha256(name.encode()).hexdigest()[:8]}"


def plain(text: str) -> str:
    """Leave brackets and quotes out, and write what a folder's name cannot hold as %XX."""
    return quote(text.translate(str.maketrans("", "", "[]{}'\" ")), safe="=,.+-_~")


OmegaConf.register_new_resolver("run_name", current_run_name, replace=True)


def choose_experiment(arguments: Sequence[str]) -> list[str]:
    """Choose the quickstart's experiment where a command line chooses neither another nor data or a model of its own.

    An experiment's numbers were found for its own data and model, so one applies to others only where it is asked for.
    """
    values = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    is_own = any(values.get(group, _QUICKSTART) != _QUICKSTART for group in ("data", "model"))
    if is_own or values.keys() & {"experiment", "~experiment"}:
        # hydra takes no null for a group
        return ["~experiment" if argument == "experiment=null" else argument for argument in arguments]
    return add_overrides(arguments, [f"experiment={_QUICKSTART}"])


def add_overrides(arguments: Sequence[str], added: Sequence[str]) -> list[str]:
    """Add overrides to a command line beside its own, since hydra's parser wants all of them in one place."""
    first = next((index for index, argument in enumerate(arguments) if is_override(argument)), len(arguments))
    return [*arguments[:first], *added, *arguments[first:]]


def is_override(argument: str) -> bool:
    """Tell overrides (key=value, ~key) from flags and their values."""
    return argument.startswith("~") or ("=" in argument and not argument.startswith("-"))


def quote_values(arguments: Sequence[str]) -> list[str]:
    """Put quotes around values with a "=", which hydra wants there: folders of a sweep's runs have such names."""
    return [_quote_value(argument) if is_override(argument) else argument for argument in arguments]


def _quote_value(argument: str) -> str:
    key, _, value = argument.partition("=")
    if "=" not in value or _is_readable(argument):
        return argument
    items = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else None
    quoted = [item if _is_readable(f"key={item}") else repr(item.strip()) for item in items or [value]]
    changed = f"{key}=[{','.join(quoted)}]" if items else f"{key}={quoted[0]}"
    return changed if _is_readable(changed) else argument


def _is_readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def find_borrowed(hydra: DictConfig) -> Iterator[str]:
    """Word what a run has that was made for other data or another model, and that its command line does not name.

    Args:
        hydra: what hydra knows of the run.
    """
    chosen, experiment = hydra.runtime.choices, hydra.runtime.choices.get("experiment")
    given = {override.partition("=")[0] for override in hydra.overrides.task}
    own, numbers = _read_experiment(experiment, hydra.runtime) if experiment else ({}, {})
    rates = [f"optimizer.{key}={value}" for key, value in numbers.get("optimizer", {}).items()]
    rates = [rate for rate in rates if rate.partition("=")[0] not in given]
    if rates and own.get("model") not in (None, chosen.model):
        yield (
            f"{', '.join(rates)}: experiment={experiment} has them for model={own['model']}, not for "
            f"{chosen.model}; set them, or leave the experiment out"
        )
    if not experiment and chosen.model == _QUICKSTART != chosen.data and "model" not in given:
        yield f"model={chosen.model} has seen the shapes world alone; choose one for your images: model=..."


def _read_experiment(name: str, runtime: DictConfig) -> tuple[dict[str, str], dict[str, Any]]:
    """Read which files of groups an experiment chooses, and all that stands in its file."""
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    for file in [folder / "experiment" / f"{name}.yaml" for folder in folders]:
        if file.is_file():
            numbers: Any = OmegaConf.to_container(OmegaConf.load(file))
            lines = [line for line in numbers.get("defaults", []) if isinstance(line, dict)]
            return {key.removeprefix("override /"): value for line in lines for key, value in line.items()}, numbers
    return {}, {}


def build(config: DictConfig, key: str = "") -> Any:
    """Turn a composed configuration into its spec objects, checking every key and value; nothing is loaded.

    Args:
        config: a node with a `_target_`.
        key: where the node stands in the whole configuration, for messages.

    Raises:
        ConfigError: a key is unknown or missing, or a value is not possible; names key, value and options.
    """
    require_values(config, key)
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or key}: {_first_line(error)}") from error
    return specs.build(values, key)


def require_values(config: DictConfig, key: str = "") -> None:
    """Require that nothing is left at `???`.

    Raises:
        ConfigError: a key has no value.
    """
    for missing in sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f"{_join(key, missing)}: missing; give it: {_join(key, missing)}=...")


def set_up_logging() -> None:
    """Show what the library logs on stderr, and of others only warnings."""
    console.show_logs(logging.INFO if is_first_process() else logging.WARNING, plain=False)
    console.silence_other_bars()
    warnings.simplefilter("ignore", FutureWarning)  # what libraries tell each other; the tests fail on ours


def run_entry(main: Callable[[], Any], root: str) -> NoReturn:
    """Run an entry point; errors made on purpose are one line on stderr and exit status 1 or 2, without a traceback.

    Args:
        main: hydra's wrapper of the entry point.
        root: name of its root configuration in `conf/`.
    """
    keep_threads_from_spinning()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra then raises instead of printing and exiting by itself
    sys.argv[1:] = quote_values(sys.argv[1:])
    if root == _TRAINING:
        sys.argv[1:] = choose_experiment(sys.argv[1:])
    try:
        if any(flag in sys.argv for flag in usage.FLAGS):
            print(usage.show_help(root, sys.argv[1:]))  # noqa: T201
        else:
            with Signals():
                main()
    except HalspanError as error:
        sys.exit(report_error(error))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(report_error(ConfigError(_explain_composition(error))))
    except Interrupted as end:
        if is_first_process():
            print(f"{end}; {end.how_to_go_on}", file=sys.stderr)  # noqa: T201
        sys.exit(end.status)
    sys.exit(0)


def report_error(error: HalspanError) -> int:
    """Print an error as one line and say which exit status it means."""
    console.report_error(error)
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED


def _explain_composition(error: Exception) -> str:
    """Say what was wrong about an override or a group, from what hydra said."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}: {name!r} is not there; {suggest(name, error.options or ())}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form key=value; quote values with special characters: 'key=\"a b\"'"
    if ambiguous := _AMBIGUOUS.search(str(error)):
        return f"{ambiguous[1]}: {ambiguous[2]!r} is several values; add -m for one run each, or write a list: [...]"
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        options = [str(name) for name in cause.parent_node or () if name not in ("hydra", "_target_")]
        return f"{cause.full_key}: unknown key; {suggest(str(cause.key), options)}"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:3])


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
