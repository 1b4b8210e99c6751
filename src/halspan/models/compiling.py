"""`trainer.compile`: the layers of a text decoder, compiled while a block of code runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from halspan.models.private.torch import forget_compiled


@contextmanager
def compiled(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Compile layers for all lengths, and let them run as they are after the block.

    A layer is compiled when it is first called. Names of parameters stay, so checkpoints do too. Beyond torch's limit
    of variants, torch warns and goes on without compiled code.

    Args:
        layers: Layers, such as those of a text decoder. One that is like another shares its code.
    """
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield
    finally:
        for layer in layers:
            forget_compiled(layer)
