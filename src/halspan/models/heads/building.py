"""Construction of head modules, with checks that checkpoints and exports can store them."""

from collections.abc import Sequence

from torch import Tensor, nn

from halspan.core.errors import ModelError
from halspan.models.heads.protocol import HeadSpec


def build_head(key: str, spec: HeadSpec, hidden: int, n_types: int) -> nn.Module:
    """Build a head.

    Args:
        key: Key of `ModelSpec`, for messages.
        spec: The head's settings.
        hidden: Size of a state.
        n_types: Number of types in the taxonomy.

    Raises:
        ModelError: It has weights that training does not change, which neither a checkpoint nor an export would hold.
    """
    head = spec.build(hidden, n_types)
    trained = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    if others := sorted(head.state_dict().keys() - trained):
        raise ModelError(
            f"model.{key}: {spec.name!r} has weights that training does not change, such as {others[0]!r}, and that "
            "would not be stored; make them trainable parameters, or buffers with persistent=False"
        )
    return head


def check_shape(key: str, logits: Tensor, shape: Sequence[int]) -> None:
    """Require that a head's logits have the shape that losses and decoding expect.

    Raises:
        ModelError: The shape is another one.
    """
    if tuple(logits.shape) != tuple(shape):
        raise ModelError(f"model.{key}: its logits must have the shape {tuple(shape)}, got {tuple(logits.shape)}")
