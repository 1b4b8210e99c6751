"""Measure the memory and speed of training in 4 bits: a Llama-4 as wide as Scout, or a part of it, with few layers.

`python experiments/llama4_memory/run.py` uses the GPU if there is one, at Scout's full width; else the CPU, at a
quarter of it. It prints the tables of README.md.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import Llama4TextConfig, Llama4TextModel

from halspan.models.backbones.families import FAMILIES
from halspan.models.backbones.loading import Backbone, load_backbone
from halspan.models.backbones.synthetic import SCOUT, save_random_llama4
from halspan.models.lora import add_lora
from halspan.models.model_spec import LoraSpec, ModelSpec
from halspan.models.plan.inventory import Weights, add_up, measure

SCOUT_LAYERS = 48
SCOUT_EXPERTS = 16
GIB, MIB = 2**30, 2**20
SHARD = 4 * GIB  # bytes


def main() -> None:
    """Write a checkpoint, load it in 4 bits, train adapters on it, and print what that took."""
    is_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divide", type=int, default=1 if is_gpu else 4, help="Scout's widths are divided by this")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--experts", type=int, default=16 if is_gpu else 4)
    parser.add_argument("--tokens", type=int, default=4096 if is_gpu else 256, help="in one pass")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--targets", nargs="+", default=["language"], help="of LoRA, such as `language experts`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        text = widths(arguments.divide, layers=arguments.layers, experts=arguments.experts)
        save_random_llama4(Path(name), text, dtype=torch.bfloat16, shard_bytes=SHARD)
        lora = LoraSpec(r=16, alpha=32, dropout=0.0, targets=arguments.targets, rslora=True)
        backbone = load_backbone(spec(name, lora))
        loaded = torch.cuda.max_memory_allocated() if is_gpu else 0
        speed = train(backbone, lora, tokens=arguments.tokens, steps=arguments.steps)
    where = torch.cuda.get_device_name() if is_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{where}: width {text['hidden_size']:,}, {arguments.layers} layers, {arguments.experts} experts; LoRA on "
        f"{', '.join(arguments.targets)}, {arguments.tokens:,} tokens in a pass\n"
    )
    print("\n".join(component_table(backbone, arguments.layers)))
    print(f"\nTraining: {speed:,.0f} tokens/s (median step of {arguments.steps})")
    if is_gpu:
        trained = torch.cuda.max_memory_allocated()
        print(f"Most GPU memory in loading: {loaded / MIB:,.0f} MiB; in training: {trained / MIB:,.0f} MiB")
    print()
    print("\n".join(scout_table(backbone)))


def widths(divide: int, *, layers: int, experts: int) -> dict[str, int]:
    """Divide Scout's widths; a head keeps its size."""
    scaled = {key: size if key == "head_dim" else max(1, size // divide) for key, size in SCOUT.items()}
    return scaled | {"num_hidden_layers": layers, "num_local_experts": experts}


def spec(folder: str, lora: LoraSpec) -> ModelSpec:
    """Choose 4 bits, and adapters."""
    return ModelSpec(
        backbone=folder,
        prompt="What is wrong?",
        context="causal",
        max_tokens=4096,
        pack_tokens=4096,
        dtype="bfloat16",
        attention="sdpa",
        quantize="nf4",
        lora=lora,
    )


def train(backbone: Backbone, lora: LoraSpec, *, tokens: int, steps: int) -> float:
    """Train adapters on random tokens, as far as the hidden states; give tokens a second, by the median step."""
    model = add_lora(backbone.model, backbone.family, lora)
    model.train()
    decoder = model.get_submodule("base_model.model.language_model.model")
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=1e-4)
    device = adapters[0].device
    ids = torch.randint(16, 600, (1, tokens), device=device)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            states = decoder(input_ids=ids, use_cache=False).last_hidden_state
        states.float().pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return tokens / sorted(seconds)[steps // 2]


def component_table(backbone: Backbone, layers: int) -> Iterator[str]:
    """Show what a layer takes."""
    yield "| of a layer | type | weights | MiB | bytes a weight |"
    yield "|---|---|---|---|---|"
    for stored in tower(backbone):
        yield (
            f"| {stored.component} | {stored.dtype} | {stored.parameters // layers:,} | "
            f"{stored.bytes / layers / MIB:,.2f} | {stored.bytes / stored.parameters:.4f} |"
        )


def scout_table(backbone: Backbone) -> Iterator[str]:
    """Carry the bytes of a weight over to the 48 layers of Scout."""
    counts = count_scout()
    rate = {(stored.component, stored.dtype): stored.bytes / stored.parameters for stored in tower(backbone)}
    yield f"| {SCOUT_LAYERS} layers of Scout, {SCOUT_EXPERTS} experts | type | weights | GiB |"
    yield "|---|---|---|---|"
    total = 0.0
    for (component, dtype), count in counts.items():
        size = count * rate[component, dtype]
        total += size
        yield f"| {component} | {dtype} | {count:,} | {size / GIB:.2f} |"
    yield f"| all | | {sum(counts.values()):,} | {total / GIB:.2f} |"


def tower(backbone: Backbone) -> list[Weights]:
    """Return what the layers hold, without the norm behind them."""
    weights = measure(backbone.model, backbone.family)
    return add_up(
        part
        for path, part in weights.items()
        if ".layers." in path and "language_model" in path and part.component != "adapters"
    )


def count_scout() -> Mapping[tuple[str, str], int]:
    """Count the weights of Scout's layers by component and type, from its widths."""
    config = Llama4TextConfig(**SCOUT, num_hidden_layers=1, num_local_experts=SCOUT_EXPERTS, vocab_size=8)
    with torch.device("meta"):
        layer = Llama4TextModel(config).layers
    counts = {("language tower", "bfloat16"): 0, ("language tower", "nf4"): 0, ("experts", "nf4"): 0}
    for name, parameter in layer.named_parameters():
        is_expert = re.fullmatch(FAMILIES["llama4"].experts or "", f"language_model.model.layers.{name}")
        component = "experts" if is_expert else "language tower"
        dtype = "nf4" if parameter.ndim > 1 and "router" not in name else "bfloat16"
        counts[component, dtype] += SCOUT_LAYERS * parameter.numel()
    return counts


if __name__ == "__main__":
    main()
