"""Llama-4 checkpoints of random weights for measurements, with real widths and any depth."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, Llama4Config, Llama4ForConditionalGeneration, Llama4TextConfig

from halspan.models.backbones.shards import INDEX, WHOLE
from halspan.models.backbones.tiny import save_tiny_llama4

SCOUT = {
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
"""Widths of a text layer of Llama-4 Scout, which has 48 of them, with 16 experts each."""

_DERIVED = ("moe_layers", "layer_types", "no_rope_layers")  # these follow from the number of layers


def save_random_llama4(
    folder: Path, text: Mapping[str, int], *, dtype: torch.dtype, shard_bytes: int, seed: int = 0
) -> Llama4Config:
    """Write the tiny Llama-4 with another text tower, in shards; at most one of them is held in memory.

    Args:
        folder: Output folder, created if necessary.
        text: Changes to its `Llama4TextConfig`, such as `SCOUT`, layers and experts.
        dtype: Type of the weights.
        shard_bytes: Largest size of a shard, in bytes, unless a single weight is larger.
        seed: Seed, which alone determines the weights.
    """
    save_tiny_llama4(folder)
    (folder / WHOLE).unlink()
    config = AutoConfig.from_pretrained(folder)
    tiny = {key: value for key, value in config.text_config.to_dict().items() if key not in _DERIVED}
    config.text_config = Llama4TextConfig(**(tiny | dict(text)))
    config.save_pretrained(folder)
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(config, dtype, shard_bytes, seed), start=1):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        places |= dict.fromkeys(shard, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return config


def _shards(config: Llama4Config, dtype: torch.dtype, shard_bytes: int, seed: int) -> Iterator[dict[str, Tensor]]:
    with torch.device("meta"):
        empty = Llama4ForConditionalGeneration(config).state_dict()
    source = torch.Generator().manual_seed(seed)
    shard: dict[str, Tensor] = {}
    size = 0
    for name, weight in empty.items():
        n_bytes = weight.numel() * dtype.itemsize
        if shard and size + n_bytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = _draw(weight.shape, dtype, config.text_config.initializer_range, source)
        size += n_bytes
    yield shard


def _draw(shape: torch.Size, dtype: torch.dtype, deviation: float, source: torch.Generator) -> Tensor:
    if len(shape) == 1:  # norms, and biases of the vision tower
        return torch.ones(shape, dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(std=deviation, generator=source)
