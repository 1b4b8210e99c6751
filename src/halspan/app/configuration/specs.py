"""The spec classes that a configuration may name under each key; nothing else is imported or called."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from halspan.app.configuration import former_names
from halspan.core.checks import show, suggest
from halspan.core.errors import ConfigError, HalspanError
from halspan.data.readers.registry import READERS

Loaders = Mapping[str, Callable[[], type]]
"""Loaders of classes, by the names that `_target_` may have."""

_TARGET = "_target_"


def _ours(*names: str) -> dict[str, Callable[[], type]]:
    """Return classes of halspan by name; each is imported when a configuration names it, since some import torch."""
    return {f"halspan.{name}": partial(_load, f"halspan.{name}") for name in names}


def _load(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    loaded: type = getattr(import_module(module), attribute)
    return loaded


SPECS: dict[str, Loaders] = {
    "": _ours("training.run_spec.RunSpec"),
    "model": _ours("models.model_spec.ModelSpec"),
    "split": _ours("data.split.parts.Split"),
    "trainer": _ours("training.run_spec.TrainerSpec"),
    "optimizer": _ours("training.run_spec.OptimizerSpec"),
    "logger": _ours("training.run_spec.CsvLoggerSpec", "training.run_spec.WandbLoggerSpec"),
    "judge": _ours("evaluation.sampling.JudgeSpec"),
    "loss": _ours("core.loss_weights.LossWeights"),
    "clipscore": _ours("evaluation.baselines.baseline_specs.DualEncoderSpec"),
    "zero_shot": _ours("evaluation.baselines.baseline_specs.ZeroShotSpec"),
    "zero_shot.model": _ours("models.model_spec.ModelSpec"),
}
"""Classes allowed under each key of a configuration, except readers; the empty key is its root."""

_JUDGES_ALL = {"judge": {_TARGET: "halspan.evaluation.sampling.JudgeSpec", "captions": None}}
_TRAINS_PLAINLY = {"tokens_per_pass": "auto", "patience": None, "compile": False, "profile": False}
_ADDED: dict[str, dict[str, Any]] = {
    "halspan.models.spec.ModelSpec": {"token_head": {"name": "comparing"}, "sentence_head": {"name": "pooling"}},
    "halspan.training.spec.RunSpec": _JUDGES_ALL,
    "halspan.training.run_spec.RunSpec": _JUDGES_ALL,  # version 0.1.0 had it without the key too
    "halspan.training.spec.TrainerSpec": _TRAINS_PLAINLY,
    "halspan.training.run_spec.TrainerSpec": _TRAINS_PLAINLY,
}
"""Keys that specs have gained since they had these names, with the values that they amounted to."""

_DROPPED = {
    "halspan.training.spec.TrainerSpec": {"rows_per_pass"},
    "halspan.training.run_spec.TrainerSpec": {"rows_per_pass"},
}
"""Keys that specs have lost since they had these names; they changed speed and memory only."""


def find_specs(key: str) -> Loaders:
    """Return the classes that may stand under a key, by name; readers of other packages come from entry points."""
    if key != "data":
        return SPECS.get(key, {})
    readers = sorted(READERS.targets().items(), key=lambda item: item[1] not in READERS.own)
    return {target: partial(READERS.find, name) for target, name in readers} | _ours("data.shapes.world.Shapes")


def modernize(node: Any) -> Any:
    """Return a saved configuration with the current names of its specs, and with keys that were added since."""
    if isinstance(node, list):
        return [modernize(value) for value in node]
    if not isinstance(node, dict):
        return node
    node = {key: modernize(value) for key, value in node.items()}
    name = node.get(_TARGET)
    if not isinstance(name, str):
        return node
    node[_TARGET] = former_names.find_spec(name)
    kept = {key: value for key, value in node.items() if key not in _DROPPED.get(name, ())}
    return _ADDED.get(name, {}) | kept


def build(node: Any, key: str = "") -> Any:
    """Build the spec objects of a configuration, checking every name, key and value.

    Args:
        node: Plain values: mappings, lists, texts, numbers.
        key: Place of the node in the whole configuration.

    Raises:
        ConfigError: A name does not belong under its key, a key is unknown or missing, or a value is not possible;
            the message names key, value and options.
    """
    check_names(node, key)
    return _build(node, key)


def check_names(node: Any, key: str = "") -> None:
    """Require that each `_target_` in a configuration names a spec of its own key.

    Hydra would import and call any object named at `_target_`, with arguments from `_args_`, `_partial_` and so on.

    Raises:
        ConfigError: A key names something else, or no spec where one is needed.
    """
    _check_name(key, node)
    for place, value in _walk(node, key):
        _check_name(place, value)


def _check_name(place: str, value: Any) -> None:
    owner, _, name = place.rpartition(".")
    if name.startswith("_") and name.endswith("_") and len(name) > 1:
        options = ", ".join(find_specs(owner)) if name == _TARGET else ""
        if value not in options.split(", "):
            if isinstance(value, str) and (now := former_names.find_spec(value)) in options.split(", "):
                raise ConfigError(f"{place}: {value} is called {now} now")
            remedy = f"possible: {options}" if options else "a configuration holds values only: remove it"
            raise ConfigError(f"{place}: {show(value)} is not possible; {remedy}")
    elif find_specs(place) and not (isinstance(value, Mapping) and _TARGET in value):
        seen = "missing" if isinstance(value, Mapping) else f"missing, and {show(value)} stands there instead"
        raise ConfigError(f"{_join(place, _TARGET)}: {seen}; possible: {', '.join(find_specs(place))}")


def _walk(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield each value with its full key."""
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
    spec = find_specs(key)[node[_TARGET]]()
    try:
        return spec(**{str(name): value for name, value in values.items()})
    except ValidationError as error:
        raise ConfigError(_explain(error, spec, key)) from error
    except HalspanError as error:
        raise ConfigError(f"{key}: {error}") from error


def _explain(error: ValidationError, spec: type, key: str) -> str:
    """Explain what is wrong with a node, from its constructor's error."""
    for unknown in (of for of in error.errors() if of["type"] == "unexpected_keyword_argument"):
        if (answer := former_names.explain(_join(key, str(unknown["loc"][0])))) is not None:
            return answer  # before the key that is missing in its place
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
    expected = first["msg"].removeprefix("Input should be ").partition(", unable to")[0]
    return f"{full}: must be {expected}, got {first['input']!r}"


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
