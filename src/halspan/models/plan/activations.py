"""Memory of the tensors in one forward and backward pass, computed from the shapes of a model."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from halspan.models.backbones.components import plain_path
from halspan.models.backbones.families import find_layers
from halspan.models.model_spec import EXPERTS, ModelSpec
from halspan.models.plan.skeleton import Skeleton

_HEAD_INPUTS = 3  # float32 tensors of the states' size that heads read: states, expectations, words
_HEAD_COPIES = 9  # number that halspan's default heads keep in addition
_HEAD_TOKENS = 512  # number of tokens with which heads are measured
_SENTENCE_TOKENS = 16  # tokens in each of their sentences
_FLOAT32 = 4  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PassSize:
    """The size of one pass on one device.

    Attributes:
        tokens: Most tokens of the pass, padding and images included, in lines of at most `model.pack_tokens`.
        is_mixed: Whether matrices are multiplied in bfloat16 whatever their dtype (autocast).
        devices: Number of devices that hold the decoder's layers in shards and take the pass together, each with its
            own tokens; None where each device holds all.
    """

    tokens: int
    is_mixed: bool
    devices: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """The tensors that one pass keeps and makes, in bytes.

    Attributes:
        kept: Bytes that the backbone keeps from the forward to the backward pass.
        gradients: Gradients of what the largest layer keeps, during its backward pass.
        heads: Bytes that the heads keep.
    """

    kept: int
    gradients: int
    heads: int

    @property
    def total(self) -> int:
        """Return the sum of all."""
        return self.kept + self.gradients + self.heads


def estimate_activations(skeleton: Skeleton, spec: ModelSpec, size: PassSize) -> Activations:
    """Estimate the activations of a training pass.

    The count is by operation, as in Korthikanti et al. 2022 (arXiv 2205.05198, section 4), for layers whose own weights
    are frozen. With c bytes per number (2 in bfloat16), a layer of the language tower keeps for each token

        c * sum over matrices of (in + out)        the input of a matrix, and its output
        c * sum over adapted matrices of rank
        (c + 1) * sum over adapted matrices of in  where adapters have dropout: the copy they read, and its mask
        (4 + c) * sum over norms of width          the float32 copy, and what comes out
        (4 or 6) * heads * tokens of the row       with eager attention: scores in float32, and cast where c is 2

    Routed experts are matrices, too, and every expert reads every token, as in transformers' Llama-4. With adapters,
    they keep their input a second time, and the sum of weight and update. All layers keep this at the same time. With
    gradient checkpointing (Chen et al. 2016, arXiv 1604.06174), a layer keeps only its input, and one layer at a time
    is recomputed. Layers below `model.lora.layers` keep nothing. In the backward pass, the gradients of one layer's
    activations take the same amount again. Without adapters, there is one layer at a time and no backward pass. Frozen
    towers keep nothing, and an adapted vision tower is counted with one tile per image.

    Args:
        skeleton: Skeleton of the detector.
        spec: Adapters, window and attention.
        size: Size of the pass.
    """
    step = 2 if size.is_mixed or spec.dtype == "bfloat16" else _FLOAT32
    text = skeleton.config.get_text_config()
    tokens = size.tokens
    line = min(tokens, spec.pack_tokens)  # longest one
    heads = text.num_attention_heads
    scores = heads * line * (4 if step == 4 else 6) if spec.attention == "eager" else 0
    layers = [
        tokens * (_bytes_per_token([layer], spec, heads, step) + scores) + _copies(layer, spec, size, step)
        for layer in find_layers(skeleton.decoder)
    ]
    state = tokens * text.hidden_size * (2 if spec.dtype == "bfloat16" else _FLOAT32)
    if spec.lora is None:
        kept = max(layers)
    else:
        with_graph = layers[_first_with_graph(skeleton, spec) :]
        kept = (len(with_graph) + 1) * state + max(layers) if spec.gradient_checkpointing else sum(with_graph)
    mask = 0 if spec.attention == "flex" else tokens * line * step
    return Activations(
        kept=kept + mask + _kept_by_vision_tower(skeleton, spec, -(-tokens // line), step),
        gradients=0 if spec.lora is None else max(layers),
        heads=tokens * text.hidden_size * (_HEAD_INPUTS + _kept_by_heads(skeleton)) * _FLOAT32,
    )


def _first_with_graph(skeleton: Skeleton, spec: ModelSpec) -> int:
    """Return the number of the lowest decoder layer that gradients pass through."""
    trained = skeleton.detector.trainable_parameters_by_component()
    is_below = any(trained.get(part, (0, 0))[0] for part in ("vision tower", "projector"))
    return 0 if spec.lora is None or is_below else spec.lora.layers or 0


def _kept_by_heads(skeleton: Skeleton) -> int:
    """Count tensors of the states' size that the heads keep for the backward pass, by running them on the meta device.

    Heads that cannot run without values are counted like halspan's default heads.
    """
    detector, hidden = skeleton.detector, skeleton.config.get_text_config().hidden_size
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[id(tensor)] = tensor
        return tensor

    try:
        with torch.device("meta"), torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            inputs = [torch.empty(_HEAD_TOKENS, hidden, requires_grad=True) for _ in range(_HEAD_INPUTS)]
            sentences = torch.empty(_HEAD_TOKENS // _SENTENCE_TOKENS, _SENTENCE_TOKENS, dtype=torch.long)
            detector.sentence_head(inputs[0], detector.token_head(*inputs)[0], sentences)
    except (NotImplementedError, RuntimeError):
        return _HEAD_COPIES
    n_bytes = sum(tensor.nbytes for tensor in kept.values())
    return int(n_bytes // (_HEAD_TOKENS * hidden * _FLOAT32))


def _bytes_per_token(parts: Iterable[nn.Module], spec: ModelSpec, heads: int, step: int) -> int:
    """Sum the bytes that the operations of layers keep for each token."""
    has_dropout = spec.lora is not None and spec.lora.dropout > 0
    adapts_experts = _adapts_experts(spec)
    total = 0
    for name, module in ((name, module) for part in parts for name, module in part.named_modules()):
        if ".lora_A." in name:
            total += step * module.out_features + has_dropout * (step + 1) * module.in_features
        elif isinstance(module, nn.Linear) and ".lora_B." not in name:
            total += step * (module.in_features + module.out_features)
        elif "Norm" in type(module).__name__:
            width = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            total += (_FLOAT32 + step) * width * (heads if name.endswith(("q_norm", "k_norm")) else 1)
        total += step * sum(n * (rows + columns + rows * adapts_experts) for n, rows, columns in _experts_of(module))
    return total


def _adapts_experts(spec: ModelSpec) -> bool:
    return spec.lora is not None and EXPERTS in spec.lora.targets


def _copies(layer: nn.Module, spec: ModelSpec, size: PassSize, step: int) -> int:
    """Return the bytes of copies of a layer's weights that the backward pass reads.

    These are autocast's bfloat16 copies of float32 matrices, and experts with adapters, whose sum is a separate tensor
    (with 4-bit weights, it is recomputed instead, unless the whole layer is).
    """
    sums = _adapts_experts(spec) and (spec.quantize is None or spec.gradient_checkpointing)
    casts = size.is_mixed and spec.dtype == "float32"
    n_expert = sum(math.prod(shape) for module in layer.modules() for shape in _experts_of(module))
    n_all = sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim > 1)
    return step * (n_expert * sums + n_all * casts)


def _experts_of(module: nn.Module) -> list[tuple[int, int, int]]:
    """Return the shapes (expert, row, column) of the routed experts that a module itself holds."""
    shapes = [tuple(parameter.shape) for parameter in module.parameters(recurse=False) if parameter.ndim == 3]
    return [(n, rows, columns) for n, rows, columns in shapes if n > 1]


def _kept_by_vision_tower(skeleton: Skeleton, spec: ModelSpec, n_images: int, step: int) -> int:
    """Return the bytes that an adapted vision tower keeps for one tile per image; a frozen one keeps none."""
    backbone, family = skeleton.detector.backbone, skeleton.family
    tower = [
        (name, module)
        for name, module in backbone.named_modules()
        if re.fullmatch(family.vision, plain_path(f"{name}.weight"))
    ]
    if not any(".lora_" in name for name, _ in tower):
        return 0
    leaves = [module for _, module in tower if not any(True for _ in module.children())]
    return n_images * _patches(skeleton.config.vision_config, spec) * _bytes_per_token(leaves, spec, 1, step)


def _patches(config: Any, spec: ModelSpec) -> int:
    """Return the number of patches of one tile; for images of any size, the number of tokens in a row."""
    if getattr(config, "image_size", None) is None:
        return spec.pack_tokens
    side, patch = (value if isinstance(value, int) else value[0] for value in (config.image_size, config.patch_size))
    return int(side // patch) ** 2
