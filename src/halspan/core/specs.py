"""What a configuration may name: the spec classes that belong under each key; nothing else is imported or called."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from halspan.core.checks import show, suggest
from halspan.core.errors import ConfigError, HalspanError

Loaders = Mapping[str, Callable[[], type]]
"""For each name that `_target_` may have, how its class is loaded."""

_TARGET = "_target_"


def _ours(*names: str) -> dict[str, Callable[[], type]]:
    """List classes of halspan; each is imported when a configuration names it, since some import torch."""
    return {f"halspan.{name}": partial(_load, f"halspan.{name}") for name in names}


def _load(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    loaded: type = getattr(import_module(module), attribute)
    return loaded


SPECS: dict[str, Loaders] = {
    "": _ours("training.spec.RunSpec"),
    "data": _ours(
        "data.jsonl.JsonLines", "data.alignbench.AlignBench", "data.chocolate.Chocolate", "data.shapes.world.Shapes"
    ),
    "model": _ours("models.spec.ModelSpec"),
    "split": _ours("data.split.Split"),
    "trainer": _ours("training.spec.TrainerSpec"),
    "optimizer": _ours("training.spec.OptimizerSpec"),
    "logger": _ours("training.spec.CsvLoggerSpec", "training.spec.WandbLoggerSpec"),
    "loss": _ours("core.loss_weights.LossWeights"),
    "clipscore": _ours("baselines.spec.DualEncoderSpec"),
    "zero_shot": _ours("baselines.spec.ZeroShotSpec"),
    "zero_shot.model": _ours("models.spec.ModelSpec"),
}
"""The classes that may stand under each key of a configuration; the empty key is its root."""


def build(node: Any, key: str = "") -> Any:
    """Build the spec objects of a configuration, checking every name, key and value.

    Args:
        node: Plain values: mappings, lists, texts, numbers.
        key: Where the node stands in the whole configuration.

    Raises:
        ConfigError: a name does not belong under its key, a key is unknown or missing, or a value is not possible;
            names key, value and what may stand there.
    """
    check_names(node, key)
    return _build(node, key)


def check_names(node: Any, key: str = "") -> None:
    """Require that a configuration names the specs of the keys that they stand under, and nothing else.

    Hydra would import and call what stands at `_target_`, with what stands at `_args_`, `_partial_` and so on.

    Raises:
        ConfigError: it names something else, or no spec where one belongs.
    """
    _check_name(key, node)
    for place, value in _walk(node, key):
        _check_name(place, value)


def _check_name(place: str, value: Any) -> None:
    owner, _, name = place.rpartition(".")
    if name.startswith("_") and name.endswith("_") and len(name) > 1:
        options = ", ".join(SPECS.get(owner, ())) if name == _TARGET else ""
        if value not in options.split(", "):
            remedy = f"possible: {options}" if options else "a configuration holds values only: remove it"
            raise ConfigError(f"{place}: {show(value)} is not possible; {remedy}")
    elif place in SPECS and not (isinstance(value, Mapping) and _TARGET in value):
        seen = "missing" if isinstance(value, Mapping) else f"missing, and {show(value)} stands there instead"
        raise ConfigError(f"{_join(place, _TARGET)}: {seen}; possible: {', '.join(SPECS[place])}")


def _walk(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield each value with its whole key."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, value in items:
        place = _join(key, str(name))
        yield place, value
        yield from _walk(value, place)


def _build(node: Any, key: str) -> Any:
    if isinstance(node, list):
        return [_build(value, _join(key, str(place))) for place, value in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    values = {name: _build(value, _join(key, str(name))) for name, value in node.items() if name != _TARGET}
    if _TARGET not in node:
        return values
    spec = SPECS[key][node[_TARGET]]()
    try:
        return spec(**{str(name): value for name, value in values.items()})
    except ValidationError as error:
        raise ConfigError(_explain(error, spec, key)) from error
    except HalspanError as error:
        raise ConfigError(f"{key}: {error}") from error


def _explain(error: ValidationError, spec: type, key: str) -> str:
    """Say what was wrong about a node, from what its constructor said."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    full = _join(key, name)
    if first["type"] == "unexpected_keyword_argument":
        options = [field.name for field in fields(spec)]
        return f"{full}: unknown key, value {first['input']!r}; {suggest(name, options)}"
    if first["type"].startswith("missing"):
        return f"{full}: missing; give it: +{full}=..."
    if first["type"] == "value_error":
        return f"{full}: {first['msg'].removeprefix('Value error, ')}"
    return f"{full}: {first['input']!r} is not possible; possible: {first['msg'].removeprefix('Input should be ')}"


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
