"""Checks and rewrites of the command line, before hydra reads it."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from halspan.app.configuration.run_names import QUICKSTART
from halspan.core.extensions import find_conf_folders


def choose_experiment(arguments: Sequence[str]) -> list[str]:
    """Add the quickstart's experiment to a command line that chooses no experiment, data or model of its own.

    An experiment's numbers were found for its own data and model, so it applies to others only on request.
    """
    values = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    is_own = any(values.get(group, QUICKSTART) != QUICKSTART for group in ("data", "model"))
    if is_own or values.keys() & {"experiment", "~experiment"}:
        # hydra does not accept null for a group
        return ["~experiment" if argument == "experiment=null" else argument for argument in arguments]
    return add_overrides(arguments, [f"experiment={QUICKSTART}"])


def add_overrides(arguments: Sequence[str], added: Sequence[str]) -> list[str]:
    """Insert overrides into a command line next to its own, because hydra's parser wants all of them in one place."""
    first = next((index for index, argument in enumerate(arguments) if is_override(argument)), len(arguments))
    return [*arguments[:first], *added, *arguments[first:]]


def add_conf_folders(arguments: Sequence[str]) -> list[str]:
    """Make hydra find the configuration groups of installed packages.

    Raises:
        ConfigError: A package registers a folder of groups that does not exist.
    """
    folders = [folder.as_uri() for folder in find_conf_folders()]
    if not folders or any(argument.startswith("hydra.searchpath=") for argument in arguments):
        return list(arguments)
    return add_overrides(arguments, [f"hydra.searchpath=[{','.join(folders)}]"])


def is_override(argument: str) -> bool:
    """Return whether an argument is an override (key=value, ~key) rather than a flag or its value."""
    return argument.startswith("~") or ("=" in argument and not argument.startswith("-"))


def quote_values(arguments: Sequence[str]) -> list[str]:
    """Quote values that contain "=", as hydra requires; the folders of a sweep's runs have such names."""
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
