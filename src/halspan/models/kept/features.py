"""What a text decoder gets of an image: taken out of one pass, and put into later ones that see no pixels.

Axes: `row` and `position` of the backbone's input, `hidden`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

Features = dict[str, Tensor]
"""What the decoder gets of one row's prompt and image, by the names of its arguments."""

_EMBEDS = "inputs_embeds"
_CROSS = "cross_attention_states"  # Mllama: states of the image that some layers attend to
_IS_IMAGE = "visual_pos_masks"  # Qwen3-VL: the positions whose states get features added after the first layers
_DEEPSTACK = "deepstack_visual_embeds"  # Qwen3-VL: a list of these features, one tensor for each layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A row whose features a pass will show: the name they are to be kept under, and what is known before.

    Attributes:
        name: Name of the entry.
        parts: The prompt, and small inputs that belong to the image; arrays, as thousands of small tensors would use up
            the descriptors of processes that read data.
    """

    name: str
    parts: Mapping[str, ndarray]


def take(named: Mapping[str, Any], prompt: Bool[Tensor, "row position"]) -> list[Features]:
    """Return the features of each row, on the CPU.

    Args:
        named: Arguments of the decoder.
        prompt: Whether a position is of the row's prompt; prompts stand first in their rows.
    """
    lengths = [int(length) for length in prompt.sum(dim=1)]
    found: list[Features] = [{} for _ in lengths]
    for row, length in enumerate(lengths):
        for name in (_EMBEDS, _IS_IMAGE):
            if named.get(name) is not None:
                found[row][name] = _copy(named[name][row, :length])
    if named.get(_CROSS) is not None:
        for row, states in enumerate(named[_CROSS].unflatten(0, (len(lengths), -1))):
            found[row][_CROSS] = _copy(states)
    for number, layer in enumerate(named.get(_DEEPSTACK) or ()):
        parts = layer.split([int(count) for count in named[_IS_IMAGE].sum(dim=1)])
        for row, part in enumerate(parts):
            found[row][f"{_DEEPSTACK}.{number}"] = _copy(part)
    return found


def join(rows: Sequence[Features]) -> Features:
    """Join the features of the rows of one pass."""
    return {name: _join(name, [row[name] for row in rows]) for name in rows[0]}


def put(named: Mapping[str, Any], features: Features, prompt: Bool[Tensor, "row position"]) -> dict[str, Any]:
    """Return the decoder's arguments with joined features in the place of what a pass without pixels has.

    Args:
        named: Arguments of the decoder.
        features: Features of the rows, from `join`.
        prompt: Whether a position is of the row's prompt.
    """
    changed = dict(named)
    if _EMBEDS in features:
        after = (0, 0, 0, prompt.shape[1] - features[_EMBEDS].shape[1])
        changed[_EMBEDS] = torch.where(prompt[..., None], F.pad(features[_EMBEDS], after), named[_EMBEDS])
    if _CROSS in features:
        changed[_CROSS] = features[_CROSS]
    if _IS_IMAGE in features:
        changed[_IS_IMAGE] = F.pad(features[_IS_IMAGE], (0, prompt.shape[1] - features[_IS_IMAGE].shape[1]))
        layers = sum(name.startswith(_DEEPSTACK) for name in features)
        changed[_DEEPSTACK] = [features[f"{_DEEPSTACK}.{number}"] for number in range(layers)]
    return changed


def _copy(part: Tensor) -> Tensor:
    return part.detach().to("cpu", copy=True).contiguous()


def _join(name: str, parts: list[Tensor]) -> Tensor:
    if name in (_EMBEDS, _IS_IMAGE):
        return pad_sequence(parts, batch_first=True)
    return torch.stack(parts).flatten(0, 1) if name == _CROSS else torch.cat(parts)
