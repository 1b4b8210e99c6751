"""How weights in shards are told from others; nothing heavy is imported."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BLOCK_SCALES = "block_scales"
"""Name of the parameter that holds the scales of 4-bit weights, beside them, so that they are divided, too."""


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a weight of which this process has some rows only (torch's `DTensor`)."""
    return hasattr(tensor, "placements")


def has_shards(model: nn.Module) -> bool:
    """Return whether a model has weights in shards."""
    return any(map(is_sharded, model.parameters()))


def holds_scales(name: str) -> bool:
    """Return whether a parameter has no weights of its own, but the scales of others."""
    return name.endswith(f".{BLOCK_SCALES}")


def stand_in(shape: Iterable[int], dtype: torch.dtype, device: torch.device, value: float = 0) -> Tensor:
    """Return a tensor that takes no memory: one value everywhere."""
    return torch.full((), value, dtype=dtype, device=device).expand(tuple(shape))


class ReadingFailed(BaseException):  # transformers collects exceptions, and goes on
    """The end of reading in this process, which must not go on to the next weight: others would take it for this one.

    Args:
        error: What went wrong.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
