"""The commands of the application by name: what `train.py`, its siblings and `halspan train` run."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from halspan.app.entry import run_entry

_COMMANDS = {"train": ("start", "config"), "evaluate": ("main", "evaluate"), "export": ("main", "export")}
"""Function in the module of each command, and the root configuration in `conf/`."""


def run_command(name: str) -> NoReturn:
    """Run a command on the command line of this process.

    Its module takes as long to import as all of `--help`, which does without it.

    Args:
        name: Name of the command, and of its module in `halspan.app`.
    """
    function, root = _COMMANDS[name]

    def start() -> None:
        main: Callable[[], Any] = getattr(import_module(f"halspan.app.{name}"), function)
        main()

    run_entry(start, root)
