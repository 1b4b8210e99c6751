"""The frame around every command: logging, signals, and errors shown in one line."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from halspan import console
from halspan.app.configuration import former_names
from halspan.app.configuration import help as usage
from halspan.app.configuration.arguments import add_conf_folders, choose_experiment, quote_values
from halspan.core.checks import suggest
from halspan.core.errors import ConfigError, HalspanError, first_lines
from halspan.core.process import is_first_process, keep_threads_from_spinning, speaker
from halspan.training.interruption import Interrupted, Signals

EXIT_FAILED = 1
EXIT_USAGE = 2
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=]*)=(.*)'")
_TRAINING = "config"  # the root configuration of training, which has experiments


def set_up_logging() -> None:
    """Send log records to stderr: all of halspan's, and only warnings of other libraries."""
    console.show_logs(logging.INFO if is_first_process() else logging.WARNING, plain=False)
    console.silence_other_bars()
    warnings.simplefilter("ignore", FutureWarning)  # from libraries; the tests fail on those from halspan


def require_alone(command: str) -> None:
    """Require that this process is not one of several that do the same.

    Raises:
        ConfigError: It is, and it is not the first.
    """
    if not is_first_process():
        raise ConfigError(f"{command}: works in one process; start it once, without torchrun or srun for several")


def run_entry(main: Callable[[], Any], root: str) -> NoReturn:
    """Run an entry point; an expected error is one line on stderr and exit status 1 or 2, without a traceback.

    Args:
        main: Hydra's wrapper of the entry point.
        root: Name of its root configuration in `conf/`.
    """
    keep_threads_from_spinning()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra then raises, and does not print and exit itself
    sys.argv[1:] = quote_values(sys.argv[1:])
    if root == _TRAINING:
        sys.argv[1:] = choose_experiment(sys.argv[1:])
    try:
        sys.argv[1:] = add_conf_folders(sys.argv[1:])
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
            print(f"{speaker()}{end}; {end.how_to_go_on}", file=sys.stderr)  # noqa: T201
        sys.exit(end.status)
    sys.exit(0)


def report_error(error: HalspanError) -> int:
    """Print an error as one line and return the exit status it stands for."""
    console.report_error(error)
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED


def _explain_composition(error: Exception) -> str:
    """Explain, from hydra's error, what is wrong with an override or a group."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        unknown = f"{group}: {name!r} is not there; {suggest(name, error.options or ())}"
        return former_names.explain(f"{group}={name}") or unknown
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form key=value; quote values with special characters: 'key=\"a b\"'"
    if ambiguous := _AMBIGUOUS.search(str(error)):
        return f"{ambiguous[1]}: {ambiguous[2]!r} is several values; add -m for one run each, or write a list: [...]"
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        options = [str(name) for name in cause.parent_node or () if name not in ("hydra", "_target_")]
        unknown = f"{cause.full_key}: unknown key; {suggest(str(cause.key), options)}"
        return former_names.explain(str(cause.full_key)) or unknown
    return first_lines(error)
