"""The configuration that a run has saved, read as plain values because its folder is not trusted."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from halspan.app.configuration.specs import modernize
from halspan.core.checks import show
from halspan.core.errors import ConfigError
from halspan.core.files import read_bytes

MOST_BYTES = 2**20  # a hundred times what a run writes
MOST_DEPTH = 32  # of mappings and lists in each other
MOST_DIGITS = 100  # of a number
INTERPOLATION = "${"

_TEXT = "tag:yaml.org,2002:str"
_COPIES = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")


def read_settings(file: Path) -> dict[str, Any]:
    """Read a saved configuration.

    Returns:
        Its values. Text stays text, even where it looks like a number or a date.

    Raises:
        ConfigError: it cannot be read, is not a YAML mapping, or holds more than values: interpolations,
            anchors, aliases, merge keys, tags, a key twice; names the file and what is wrong.
    """
    try:
        text = read_bytes(file, MOST_BYTES).decode()
        _check_events(text)
        settings = yaml.load(text, _Loader)
        check_values(settings)
        settings = modernize(settings)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); restore it") from None
    except (ValueError, yaml.YAMLError, RecursionError, ConfigError) as error:
        problem = " ".join(str(error).split())[:300]
        raise ConfigError(f"{file}: {problem}; get the folder again from where you trust it") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{file}: holds {show(settings)}, not keys with values; restore it")
    return settings


def check_values(settings: Any) -> None:
    """Require that a configuration holds no interpolation, so that it can be saved and read back unchanged.

    Raises:
        ConfigError: A key or a text holds one; the message names its place.
    """
    for place, text in _texts(settings):
        if INTERPOLATION in text:
            raise ConfigError(
                f"{place}: {show(text)} holds {INTERPOLATION!r}, and a saved configuration has values only, nothing "
                "that is looked up"
            )


def _texts(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield place, node
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        where = f"{place}.{key}".removeprefix(".")
        yield where, str(key)
        yield from _texts(value, where)


def _check_events(text: str) -> None:
    """Refuse what makes YAML more than values, before any value is made."""
    depth, resolver = 0, yaml.SafeLoader("")
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ConfigError(f"line {line}: anchors and aliases are not possible")
        if getattr(event, "tag", None) is not None:
            raise ConfigError(f"line {line}: the tag {event.tag!r} is not possible")
        if isinstance(event, yaml.ScalarEvent):
            _check_scalar(event.value, resolver.resolve(yaml.ScalarNode, event.value, event.implicit), line)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ConfigError(f"line {line}: nested more than {MOST_DEPTH} deep")


def _check_scalar(text: str, tag: str, line: int) -> None:
    """Refuse keys that copy other mappings, and numbers that are too long to read or show."""
    if tag in _COPIES:
        raise ConfigError(f"line {line}: {text!r} copies values from elsewhere, which is not possible")
    if tag != _TEXT and len(text) > MOST_DIGITS:
        raise ConfigError(f"line {line}: {text[:20]!r}... has {len(text):,} characters, too many for a number")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML is untyped
    """YAML loader for plain values only; a duplicate key is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = sorted((str(key.value), key.start_mark.line + 1) for key, _ in node.value)
        for (one, _), (other, line) in itertools.pairwise(keys):
            if one == other:
                raise ConfigError(f"line {line}: the key {show(one)} occurs twice")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping
