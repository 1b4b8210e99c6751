"""`halspan train`, `evaluate` and `export`: what `train.py` and its siblings run, for an installed package."""

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from halspan import app
from halspan.core.errors import ConfigError

COMMANDS = {
    "train": "Train a detector and judge it on generators it never saw.",
    "evaluate": "Judge trained detectors, averages of them, and baselines.",
    "export": "Write a trained detector into a folder that loads anywhere.",
}
"""The help of each command, by its name, which is also that of its module in `halspan.app`."""

_REQUIRED = ("hydra", "omegaconf", "pytorch_lightning")  # of the extra `train`


def run(name: str, arguments: Sequence[str]) -> NoReturn:
    """Hand a command line to the application, which reads all of it: `key=value`, `-m`, `--help`, `--cfg job`.

    Args:
        name: One of `COMMANDS`.
        arguments: Command line behind the name.

    Raises:
        ConfigError: What the application needs is not installed.
    """
    if missing := next((module for module in _REQUIRED if find_spec(module) is None), None):
        raise ConfigError(f"halspan {name} needs {missing}, which is not installed: pip install 'halspan[train]'")
    from halspan.app.commands import run_command  # imports hydra, which only the extra `train` installs

    # Lightning starts its other processes as `python sys.argv[0] ...`: that has to be a file of Python.
    sys.argv = [str(Path(app.__path__[0]) / f"{name}.py"), *arguments]
    run_command(name)


def listed(name: str) -> Callable[[], None]:
    """Return a command for `halspan --help` to list; `halspan.cli.main` runs it before typer reads a word."""

    def command() -> None:
        run(name, ())

    return command
