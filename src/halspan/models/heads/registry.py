"""Heads by name: specs from the settings in a configuration or an exported detector."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

from pydantic import ValidationError

from halspan.core.checks import ask_if_meant
from halspan.core.errors import ConfigError
from halspan.core.extensions import Registry
from halspan.models.heads.protocol import HeadSpec

_GROUP = "halspan.heads"
_SPECS = "halspan.models.heads.specs"

TOKEN_HEADS = Registry(
    _GROUP,
    "token head",
    {"comparing": f"{_SPECS}:ComparingHead", "linear": f"{_SPECS}:LinearTokens"},
    prefix="token-",
)
SENTENCE_HEADS = Registry(
    _GROUP,
    "sentence head",
    {"pooling": f"{_SPECS}:PoolingHead", "linear": f"{_SPECS}:LinearSentences"},
    prefix="sentence-",
)
HEADS = {"token_head": TOKEN_HEADS, "sentence_head": SENTENCE_HEADS}
"""Registries of heads, by the key of `ModelSpec`."""


def read_head(registry: Registry, value: Any) -> HeadSpec:
    """Return the spec of the head that `{"name": ..., setting: ...}` describes.

    Args:
        registry: The registered heads.
        value: The mapping; or a spec, which is returned as it is if its class is registered.

    Raises:
        ValueError: The name is not registered, its package cannot be imported, or a setting is not possible.
    """
    settings = dict(value) if isinstance(value, Mapping) else {"name": getattr(value, "name", None)}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"{value!r} does not name a head; write {{name: {registry.names()[0]}}}, with its settings")
    try:
        spec = registry.find(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    if not (is_dataclass(spec) and hasattr(spec, "build")):
        raise ValueError(f"{registry.what} {name!r}: {spec!r} is not a dataclass with a method `build`")
    if isinstance(value, Mapping):
        return _build(registry.what, cast(type, spec), name, settings)
    if type(value) is not spec:
        raise ValueError(f"{value!r} is not the {registry.what} that is registered as {name!r}, {spec!r}")
    return cast(HeadSpec, value)


def _build(what: str, spec: type, name: str, settings: Mapping[str, Any]) -> HeadSpec:
    known = [field.name for field in fields(spec) if field.name != "name"]
    possible = f"its settings: {', '.join(known)}" if known else "it has no settings"
    if unknown := [setting for setting in settings if setting not in known]:
        hint = ask_if_meant(unknown[0], known)
        raise ValueError(f"{what} {name!r} has no setting {unknown[0]!r}; {hint}{possible}")
    try:
        return cast(HeadSpec, spec(name=name, **settings))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"{what} {name!r}: {place}: {first['input']!r:.100} is not possible ({first['msg']}); {possible}"
        ) from None
