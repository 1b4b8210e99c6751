"""From the command line to typed objects: what train.py, evaluate.py and export.py share; hydra ends here."""

import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields
from hashlib import sha256
from typing import Any, NoReturn
from urllib.parse import quote

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

import usage
from halspan.core.errors import ConfigError, HalspanError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # as a shell says it
_LONGEST_NAME = 180  # characters
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=]*)=(.*)'")


def current_run_name() -> str:
    """Name the run whose configuration is being resolved; without hydra around it, it has no name of its own."""
    if not HydraConfig.initialized():
        return "run"
    hydra = HydraConfig.get()
    return name_run(hydra.runtime.choices.experiment, hydra.mode, hydra.job.override_dirname)


def name_run(experiment: str, mode: RunMode, overrides: str) -> str:
    """Name a run by its experiment and, in a sweep, by its overrides; a name is one folder, on any file system."""
    if mode != RunMode.MULTIRUN or not overrides:
        return experiment
    name = f"{experiment}-{plain(overrides)}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{sha256(name.encode()).hexdigest()[:8]}"


def plain(text: str) -> str:
    """Leave brackets and quotes out, and write what a folder's name cannot hold as %XX."""
    return quote(text.translate(str.maketrans("", "", "[]{}'\" ")), safe="=,.+-_~")


OmegaConf.register_new_resolver("run_name", current_run_name, replace=True)


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
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        raise ConfigError(_explain_value(error, config, key)) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or key}: {_first_line(error)}") from error


def require_values(config: DictConfig, key: str = "") -> None:
    """Require that nothing is left at `???`.

    Raises:
        ConfigError: a key has no value.
    """
    for missing in sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f"{_join(key, missing)}: missing; give it: {_join(key, missing)}=...")


def set_up_logging() -> None:
    """Show what the library logs on stderr, and of others only warnings."""
    from rich.console import Console
    from rich.logging import RichHandler

    from halspan.training.rundir import is_first_process

    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler.addFilter(_is_worth_showing)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("halspan").setLevel(logging.INFO if is_first_process() else logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)  # what libraries tell each other; the tests fail on ours


def _is_worth_showing(record: logging.LogRecord) -> bool:
    """Keep out Lightning's advertisements, and a warning about 4-bit kernels that comes used or not."""
    if record.name.startswith("bitsandbytes"):
        return record.levelno >= logging.ERROR
    return record.name.startswith("halspan") or record.levelno >= logging.WARNING


def run_entry(main: Callable[[], Any], root: str) -> NoReturn:
    """Run an entry point; errors made on purpose are one line on stderr and exit status 1 or 2, without a traceback.

    Args:
        main: hydra's wrapper of the entry point.
        root: name of its root configuration in `conf/`.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra then raises instead of printing and exiting by itself
    try:
        if any(flag in sys.argv for flag in usage.FLAGS):
            print(usage.show_help(root, sys.argv[1:]))  # noqa: T201
        else:
            main()
    except HalspanError as error:
        sys.exit(report_error(error))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(report_error(ConfigError(_explain_composition(error))))
    except KeyboardInterrupt:
        print("interrupted; resume=true goes on from the last checkpoint", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def report_error(error: HalspanError) -> int:
    """Print an error as one line and say which exit status it means."""
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED


def suggest(word: str, options: Iterable[str]) -> str:
    """List the options, the likely one first."""
    names = sorted(options)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}possible: {', '.join(names)}" if names else "it takes no keys"


def _explain_value(error: InstantiationException, config: DictConfig, key: str) -> str:
    """Say what was wrong about a node, from what its constructor said."""
    from pydantic import ValidationError

    lines = str(error).splitlines()
    at = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
    at = at.removeprefix(key).removeprefix(".")  # a node inside a larger configuration gives its whole path
    node = OmegaConf.select(config, at) if at else config
    cause = error.__cause__
    if isinstance(cause, HalspanError):
        return f"{_join(key, at)}: {cause}"
    if not isinstance(cause, ValidationError):
        return f"{_join(key, at)}: {lines[0]}"
    first = cause.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    full = _join(key, at, name)
    if first["type"] == "unexpected_keyword_argument":
        owner = get_class(node["_target_"])
        return (
            f"{full}: unknown key, value {first['input']!r}; {suggest(name, [field.name for field in fields(owner)])}"
        )
    if first["type"].startswith("missing"):
        return f"{full}: missing; give it: +{full}=..."
    if first["type"] == "value_error":
        return f"{full}: {first['msg'].removeprefix('Value error, ')}"
    return f"{full}: {first['input']!r} is not possible; possible: {first['msg'].removeprefix('Input should be ')}"


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
