"""Backbones without their upper layers: `model.read_layer` is the last decoder layer that is loaded and run."""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeVar

from halspan.core.errors import ModelError

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_NOT_DECODER = re.compile(r"vision|visual|image|projector|connector|adapter|merger")
_BY_NUMBER = ("cross_attention_layers", "moe_layers")  # lists of the layers of a kind, in transformers' configurations

_Stored = TypeVar("_Stored")


def cut_config(config: Any, read_layer: int | None) -> Any:
    """Return a configuration with the first layers of its text decoder.

    Args:
        config: Transformers' configuration of a vision-language model.
        read_layer: Number of layers to keep, from 1; None for all.

    Raises:
        ModelError: There are fewer layers, or none of those that are kept sees the image.
    """
    if read_layer is None:
        return config
    cut = deepcopy(config)
    text = cut.get_text_config()
    n_layers = text.num_hidden_layers
    if read_layer > n_layers:
        raise ModelError(
            f"model.read_layer: {read_layer}, but the text decoder has {n_layers} layers; give 1 to {n_layers}"
        )
    for name, value in list(vars(text).items()):
        if name in _BY_NUMBER and isinstance(value, list):
            setattr(text, name, [layer for layer in value if layer < read_layer])
        elif isinstance(value, list) and len(value) == n_layers:  # layer_types, no_rope_layers: one entry a layer
            setattr(text, name, value[:read_layer])
    text.num_hidden_layers = read_layer
    if getattr(config.get_text_config(), "cross_attention_layers", None) and not text.cross_attention_layers:
        first = min(config.get_text_config().cross_attention_layers)
        raise ModelError(
            f"model.read_layer: {read_layer}, but layer {first + 1} is the first to see the image; give at least that"
        )
    return cut


def cut_checkpoint(tensors: Mapping[str, _Stored], read_layer: int | None) -> dict[str, _Stored]:
    """Return the tensors of a checkpoint without those of the decoder's layers above `read_layer`, by their names."""
    return {name: stored for name, stored in tensors.items() if read_layer is None or not _is_above(name, read_layer)}


def layer_number(name: str) -> int | None:
    """Return the number of the decoder's layer that a weight belongs to, by its name; None for other weights."""
    layer = _LAYER.search(name)
    return int(layer[1]) if layer is not None and _NOT_DECODER.search(name) is None else None


def _is_above(name: str, read_layer: int) -> bool:
    layer = layer_number(name)
    return layer is not None and layer >= read_layer
