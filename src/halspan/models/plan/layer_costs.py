"""Operations of one layer, forward and backward, counted from the shapes of its matrices."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

BASE, LORA_A, LORA_B = "base", "A", "B"

_AFTER_ATTENTION = {"o_proj", "out_proj", "proj", "projection_layer"}
_LAST_OF_MLP = {"down_proj", "fc2", "linear_fc2"}
_PROJECTION = "mm_input_projection_weight"  # Gemma-3's projector, which is not a linear layer
_ATTENTION = re.compile(r"attn|attention")
_KEYS = re.compile(r"cross_attn\.[kv]_proj")  # of layers that read the image by cross-attention

Ways = tuple[int, int]
"""Operations of the forward and the backward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One matrix of a model.

    Attributes:
        name: Its path.
        part: `base`, or the first or second matrix of an adapter, `A` or `B`.
        width: Numbers that it reads.
        operations: Operations of its forward pass for each token.
    """

    name: str
    part: str
    width: int
    operations: int

    @property
    def stage(self) -> int:
        """Return its place in a layer: before attention, after it, first or last of the feed-forward part."""
        path = re.sub(r"\.(base_layer|lora_[AB].*)$", "", self.name)
        last = path.rpartition(".")[2]
        if _ATTENTION.search(path):
            return 1 if last in _AFTER_ATTENTION else 0
        return 3 if last in _LAST_OF_MLP else 2

    def backward(self, *, input_learns: bool) -> int:
        """Return the operations of its backward pass for each token: gradients of its input and, if trained, of itself.

        Args:
            input_learns: Whether anything below it is trained, so that its input needs a gradient.
        """
        return self.operations * {BASE: int(input_learns), LORA_A: 1 + input_learns, LORA_B: 2}[self.part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Operations of one layer.

    Attributes:
        token: Of each token.
        key: Of each patch, where the layer sees the image by cross-attention.
        pair: Of each query and the key that it sees.
        is_cross: Whether its keys are the patches of the image.
    """

    token: Ways
    key: Ways
    pair: Ways
    is_cross: bool


def read_matrices(module: nn.Module, *, expert_share: float = 1.0) -> Iterator[Matrix]:
    """Yield the matrices of a module: linear layers, convolutions over patches, and routed experts.

    Args:
        module: Module, with or without memory.
        expert_share: Share of the routed experts that a token goes to.
    """
    for name, part in module.named_modules():
        kind = LORA_A if ".lora_A." in name else LORA_B if ".lora_B." in name else BASE
        if isinstance(part, nn.Linear):
            operations = 2 * part.in_features * part.out_features
            yield Matrix(name=name, part=kind, width=part.in_features, operations=operations)
        elif isinstance(part, nn.Conv2d | nn.Conv3d):
            yield Matrix(name=name, part=BASE, width=part.weight[0].numel(), operations=2 * part.weight.numel())
        for own, parameter in part.named_parameters(recurse=False):
            is_expert = parameter.ndim == 3 and len(parameter) > 1  # expert, in, out
            if is_expert or own == _PROJECTION:
                operations = round(2 * parameter.numel() * (expert_share if is_expert else 1))
                yield Matrix(name=f"{name}.{own}", part=BASE, width=parameter.shape[-2], operations=operations)


def add_ways(matrices: Iterable[Matrix], *, input_learns: bool) -> Ways:
    """Sum the operations of matrices for each token."""
    known = list(matrices)
    return sum(m.operations for m in known), sum(m.backward(input_learns=input_learns) for m in known)


def count_layer(matrices: Sequence[Matrix], *, input_learns: bool) -> Layer:
    """Count one layer.

    Args:
        matrices: Its matrices.
        input_learns: Whether its input needs a gradient, because something below it is trained.
    """
    adapted = {matrix.stage for matrix in matrices if matrix.part == LORA_A}
    counts = {False: [0, 0], True: [0, 0]}  # of tokens, of patches
    for matrix in matrices:
        learns = input_learns or any(stage < matrix.stage for stage in adapted)
        count = counts[_KEYS.search(matrix.name) is not None]
        count[0] += matrix.operations
        count[1] += matrix.backward(input_learns=learns)
    return Layer(
        token=(counts[False][0], counts[False][1]),
        key=(counts[True][0], counts[True][1]),
        pair=_count_pair(matrices, input_learns=input_learns),
        is_cross=any("cross_attn." in matrix.name for matrix in matrices),
    )


def is_adapted(matrices: Iterable[Matrix]) -> bool:
    """Return whether there is an adapter."""
    return any(matrix.part == LORA_A for matrix in matrices)


def _count_pair(matrices: Sequence[Matrix], *, input_learns: bool) -> Ways:
    """Count attention: scores and sum of values, 2 operations each for every number of all heads.

    The backward pass has four such products, for the gradients of queries, keys, probabilities and values. In the
    lowest layer that is trained, only those of what is trained are needed.
    """
    product = 2 * next((m.width for m in matrices if m.stage == 1 and m.part == BASE), 0)
    adapted = [m.name.partition(".lora_A")[0][-6:] for m in matrices if m.part == LORA_A and m.stage == 0]
    query, key, value = (input_learns or any(n == f"{x}_proj" or n[1:] != "_proj" for n in adapted) for x in "qkv")
    return 2 * product, product * (query + key + (query or key) + value)
