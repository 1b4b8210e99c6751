"""The floor: the operations of an ideal pass over captions, counted from the shapes of a model.

Axes: `token` (of prompt or caption, in the text decoder), `patch` (a token of the vision tower).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from halspan.models.backbones.components import plain_path
from halspan.models.backbones.families import find_layers
from halspan.models.backbones.family_inputs import images_see_themselves, prompt_sees_itself
from halspan.models.inputs.batch import EncodedRow, copies_of
from halspan.models.inputs.context import FULL, layer_kinds
from halspan.models.plan.layer_costs import Layer, Matrix, Ways, add_ways, count_layer, is_adapted, read_matrices
from halspan.models.plan.skeleton import Skeleton
from halspan.models.plan.visible_pairs import count_causal, count_later

_LAYER = re.compile(r".*?\.\d+(?=\.)")  # a path up to the first number


@dataclass(frozen=True, slots=True)
class CaptionSize:
    """The size of one caption.

    Attributes:
        tokens: Number of its tokens.
        sentences: The tokens of each sentence, by their places in the caption; for `bidirectional_sentence`, they say
            who sees whom.
    """

    tokens: int
    sentences: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSize:
    """The size of one image with its prompt and all captions of it.

    Attributes:
        tiles: Patches of each tile; tiles do not see each other. Empty where the image's features are kept.
        image_tokens: Number of tokens that the projector returns.
        prompt: Tokens of the prompt, those of the image included.
        captions: Size of each caption.
    """

    tiles: tuple[int, ...]
    image_tokens: int
    prompt: int
    captions: tuple[CaptionSize, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """Operations of an ideal pass; a multiplication with its addition is two.

    Attributes:
        images: Vision tower and projector, forward.
        matrices: Matrices of the text decoder, forward.
        attention: Attention of the text decoder, forward.
        heads: Heads, forward.
        backward: Backward pass of all of them; 0 in scoring.
    """

    images: int = 0
    matrices: int = 0
    attention: int = 0
    heads: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Return the sum of all."""
        return self.images + self.matrices + self.attention + self.heads + self.backward

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(
            images=self.images + other.images,
            matrices=self.matrices + other.matrices,
            attention=self.attention + other.attention,
            heads=self.heads + other.heads,
            backward=self.backward + other.backward,
        )


def measure_row(skeleton: Skeleton, row: EncodedRow) -> RowSize:
    """Return the size of an encoded row; its captions must be all captions of the image."""
    config = skeleton.config
    placeholder = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    return RowSize(
        tiles=_tiles(skeleton, row.image_inputs),
        image_tokens=int(torch.eq(row.prompt, placeholder or -1).sum()),
        prompt=len(row.prompt),
        captions=tuple(CaptionSize(len(caption.ids), _sentences(caption.token_sentence)) for caption in row.captions),
    )


def full_row(skeleton: Skeleton) -> RowSize:
    """Return a row of one tile and `model.pack_tokens` tokens; without a tile where images have any size."""
    vision, length = skeleton.config.vision_config, skeleton.spec.pack_tokens
    side = _edge(getattr(vision, "image_size", None))
    patches = (side // _edge(vision.patch_size)) ** 2
    tiles = (patches + _class_tokens(skeleton),) if patches else ()
    return RowSize(tiles=tiles, image_tokens=patches, prompt=length, captions=())


def count_floor(skeleton: Skeleton, rows: Iterable[RowSize], *, is_training: bool) -> Operations:
    """Count the operations of an ideal pass over rows, one for each distinct image.

    Every image goes once through the vision tower and projector, its prompt once through the decoder, and every token
    of a caption once (twice with `echo`). With weights of `in x out` numbers, a token takes

        2 * in * out                 in each matrix; of routed experts, only those that a token goes to count
        2 * r * (in + out)           in each adapter of rank r
        4 * heads * head size        in each layer, for each token that it sees (scores, and the sum of values)

    A token sees the prompt before it and what `context` allows of its own caption, within the layer's reach. The
    backward pass takes, for each token,

        2 * in * out                 where something below a matrix is trained: the gradient of its input
        4 * r * (in + out)           in each adapter, less `2 * in * r` where nothing below it is trained
        8 * heads * head size        in attention for each pair, less what nothing trained needs

    and twice the forward pass in the heads. Nothing counts for padding, logits of the vocabulary, norms, or what is
    computed again. Heads are counted by their matrices, those of the sentence head once for each sentence.

    Args:
        skeleton: Skeleton of the detector.
        rows: Size of each row.
        is_training: Whether there is a backward pass.
    """
    floor = _Floor(skeleton, is_training=is_training)
    return sum(map(floor.count, rows), Operations())


class _Floor:
    """Operations of the parts of one detector."""

    def __init__(self, skeleton: Skeleton, *, is_training: bool) -> None:
        self._skeleton = skeleton
        self._is_training = is_training
        self._text = skeleton.config.get_text_config()
        self._reaches = layer_kinds(self._text)
        self._copies = copies_of(skeleton.spec.context)

    def count(self, row: RowSize) -> Operations:
        patches = sum(row.tiles)
        tokens = row.prompt + self._copies * sum(caption.tokens for caption in row.captions)
        pairs = {kind: self._pairs(row, kind) for kind in self._reaches}
        forward, backward = ((self._images(row, way), *self._texts(tokens, patches, pairs, way)) for way in (0, 1))
        heads = self._heads(row)
        return Operations(
            images=forward[0],
            matrices=forward[1],
            attention=forward[2],
            heads=heads,
            backward=sum(backward) + 2 * heads if self._is_training else 0,
        )

    def _images(self, row: RowSize, way: int) -> int:
        if not row.tiles:
            return 0
        layers, others, projector = self._tower
        patches = sum(row.tiles)
        count = others[way] * (patches - len(row.tiles) * _class_tokens(self._skeleton))
        count += projector[way] * (patches if any(layer.is_cross for layer, _ in self._decoder) else row.image_tokens)
        for layer, window in zip(layers, self._windows(len(layers)), strict=True):
            pairs = sum(_count_windowed(tile, window) for tile in row.tiles)
            count += layer.token[way] * patches + layer.pair[way] * pairs
        return count

    def _windows(self, n_layers: int) -> list[int | None]:
        """Return how many patches a patch sees in each layer of the vision tower, at most; None for all of its tile."""
        vision = self._skeleton.config.vision_config
        whole = getattr(vision, "fullatt_block_indexes", None)
        if whole is None:
            return [None] * n_layers
        return [None if n in whole else int(vision.window_size // vision.patch_size) ** 2 for n in range(n_layers)]

    def _texts(self, tokens: int, patches: int, pairs: Mapping[str, int], way: int) -> tuple[int, int]:
        matrices = sum(layer.token[way] * tokens + layer.key[way] * patches for layer, _ in self._decoder)
        attention = sum(
            layer.pair[way] * (tokens * patches if layer.is_cross else pairs[kind]) for layer, kind in self._decoder
        )
        return matrices, attention

    def _heads(self, row: RowSize) -> int:
        detector = self._skeleton.detector
        heads = (detector.token_head, detector.sentence_head)
        token, sentence = (sum(matrix.operations for matrix in read_matrices(head)) for head in heads)
        return sum(token * caption.tokens + sentence * len(caption.sentences) for caption in row.captions)

    def _pairs(self, row: RowSize, kind: str) -> int:
        reach = self._reaches[kind]
        of_prompt = count_causal(row.prompt, kind, reach)
        total = of_prompt + count_later(range(self._both_ways(row)), kind, reach)
        for caption in row.captions:
            total += count_causal(row.prompt + self._copies * caption.tokens, kind, reach) - of_prompt
            for block in self._blocks(caption):
                total += count_later((row.prompt + place for place in block), kind, reach)
        return total

    def _both_ways(self, row: RowSize) -> int:
        """Return how many tokens of the prompt see each other both ways."""
        sight = self._skeleton.family.prompt_blocks
        if sight is prompt_sees_itself:
            return row.prompt
        return row.image_tokens if sight is images_see_themselves else 0

    def _blocks(self, caption: CaptionSize) -> Sequence[Sequence[int]]:
        """Return the tokens of a caption that see each other both ways."""
        if self._skeleton.spec.context == "bidirectional":
            return [range(caption.tokens)]
        return caption.sentences if self._skeleton.spec.context == "bidirectional_sentence" else ()

    @cached_property
    def _decoder(self) -> list[tuple[Layer, str]]:
        """Return the decoder's layers with their kinds."""
        layers = find_layers(self._skeleton.decoder)
        kinds = getattr(self._text, "layer_types", None) or [FULL] * len(layers)
        n_experts = getattr(self._text, "num_local_experts", None) or getattr(self._text, "num_experts", None) or 1
        share = (getattr(self._text, "num_experts_per_tok", None) or 1) / n_experts
        matrices = [list(read_matrices(layer, expert_share=share)) for layer in layers]
        is_late = any("cross_attn." in matrix.name for layer in matrices for matrix in layer)
        counted = _count_layers(matrices, input_learns=self._images_learn and not is_late)
        return list(zip(counted, kinds, strict=True))

    @cached_property
    def _tower(self) -> tuple[list[Layer], Ways, Ways]:
        """Return the layers of the vision tower, its other matrices, and those of the projector."""
        family, backbone = self._skeleton.family, self._skeleton.detector.backbone
        layers: dict[str, list[Matrix]] = {}
        projector: dict[str, list[Matrix]] = {}
        others: list[Matrix] = []
        for matrix in read_matrices(backbone):
            path = plain_path(matrix.name).partition(".lora_")[0]
            if re.fullmatch(family.projector, f"{path}.weight"):
                projector.setdefault(path, []).append(matrix)
            elif re.fullmatch(family.vision, f"{path}.weight"):
                of_layer = _LAYER.match(path)
                (others if of_layer is None else layers.setdefault(of_layer[0], [])).append(matrix)
        learns = any(map(is_adapted, layers.values()))
        counted = _count_layers(list(layers.values()), input_learns=False)
        chains: dict[str, list[list[Matrix]]] = {}  # a projector for each of several layers of the tower
        for path, matrices in projector.items():
            of_layer = _LAYER.match(path)
            chains.setdefault("" if of_layer is None else of_layer[0], []).append(matrices)
        steps = [layer.token for chain in chains.values() for layer in _count_layers(chain, input_learns=learns)]
        of_projector = (sum(step[0] for step in steps), sum(step[1] for step in steps))
        return counted, add_ways(others, input_learns=False), of_projector

    @property
    def _images_learn(self) -> bool:
        """Return whether the image's features depend on anything trained."""
        family, backbone = self._skeleton.family, self._skeleton.detector.backbone
        paths = [plain_path(name) for name, _ in backbone.named_parameters() if ".lora_A." in name]
        return any(re.fullmatch(pattern, path) for path in paths for pattern in (family.vision, family.projector))


def _count_layers(layers: Sequence[Sequence[Matrix]], *, input_learns: bool) -> list[Layer]:
    counted = []
    for matrices in layers:
        counted.append(count_layer(matrices, input_learns=input_learns))
        input_learns = input_learns or is_adapted(matrices)
    return counted


def _count_windowed(patches: int, window: int | None) -> int:
    """Count the pairs of patches in a tile that is cut into windows, as if all but one were full."""
    whole, rest = divmod(patches, window or patches)
    return whole * (window or patches) ** 2 + rest**2


def _tiles(skeleton: Skeleton, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the patches of each tile of an image, a class token included."""
    if "image_grid_thw" in inputs:
        return tuple(inputs["image_grid_thw"].prod(dim=1).tolist())
    pixels = inputs["pixel_values"]
    patch = _edge(skeleton.config.vision_config.patch_size)
    height, width = pixels.shape[-2:]
    return (height // patch * (width // patch) + _class_tokens(skeleton),) * math.prod(pixels.shape[:-3])


def _class_tokens(skeleton: Skeleton) -> int:
    names = (name for name, _ in skeleton.detector.backbone.named_parameters())
    return int(any(name.endswith(("class_embedding", "cls_token")) for name in names))


def _edge(size: Any) -> int:
    """Return the side of a square, of which configurations give one number, several, or none."""
    return int(size[0] if isinstance(size, Sequence) else size or 0)


def _sentences(token_sentence: Int[ndarray, "token"]) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of each sentence that has some."""
    numbers = sorted(set(token_sentence.tolist()) - {-1})
    return tuple(tuple(np.flatnonzero(token_sentence == number).tolist()) for number in numbers)
