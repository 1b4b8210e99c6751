"""Memory of loading a sharded checkpoint in 4 bits: `python benchmarks/loading.py` (its part of RESULTS.md).

A Llama-4 with layers half as wide as Scout's is written with random weights, in shards, and loaded in a process of its
own for each way. Peak memory is the largest resident set of that process, less what it had before it loaded: pages of
mapped files count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from results import machine, write_section

if TYPE_CHECKING:  # the process that only starts others imports no torch
    from torch import nn

ROOT = Path(__file__).parents[1]
HEADING = "## Loading in 4 bits"
MIB = 2**20

TEXT = {
    "hidden_size": 2560,
    "intermediate_size": 4096,
    "intermediate_size_mlp": 8192,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_hidden_layers": 4,
    "num_local_experts": 4,
}
SHARD = 256 * MIB  # bytes
WAYS = {
    "halspan": "`model.quantize=nf4`",
    "transformers": "transformers, `load_in_4bit=True` (experts stay in 16 bits)",
}


def main() -> None:
    """Measure both ways, or, in a child process, one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, help="load the checkpoint this way and print JSON")
    parser.add_argument("--folder", type=Path, help="of the checkpoint")
    arguments = parser.parse_args()
    if arguments.way is not None:
        print(json.dumps(measure(arguments.way, arguments.folder)))
        return
    write_section(HEADING, report())


def report() -> list[str]:
    """Write a checkpoint and load it each way."""
    import torch

    from halspan.models.backbones.synthetic import save_random_llama4

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_random_llama4(folder, TEXT, dtype=torch.bfloat16, shard_bytes=SHARD)
        sizes = sorted(file.stat().st_size for file in folder.glob("*.safetensors"))
        rows = [row(way, title, folder, sizes[-1]) for way, title in WAYS.items()]
    return [
        f"`python benchmarks/loading.py` on {machine()}, one thread: a Llama-4 of {TEXT['num_hidden_layers']} layers "
        f"of width {TEXT['hidden_size']:,} with {TEXT['num_local_experts']} experts, {sum(sizes) / MIB:,.0f} MiB in "
        f"bfloat16, in {len(sizes)} shards of at most {sizes[-1] / MIB:,.0f} MiB. The peak is beyond what the process "
        "had before it loaded.",
        "",
        "| way | weights once loaded, MiB | peak, MiB | weights and one shard, MiB | seconds |",
        "|---|---|---|---|---|",
        *rows,
    ]


def row(way: str, title: str, folder: Path, shard: int) -> str:
    """Load in a fresh process; give its line of the table."""
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    limit = (result["bytes"] + shard) / MIB
    return (
        f"| {title} | {result['bytes'] / MIB:,.0f} | {result['peak'] / MIB:,.0f} | {limit:,.0f} | "
        f"{result['seconds']:.0f} |"
    )


def measure(way: str, folder: Path) -> dict[str, float]:
    """Load one way and use every weight once; give bytes of weights, bytes at the peak, seconds."""
    import torch

    from halspan.models.backbones.families import FAMILIES
    from halspan.models.backbones.tiny import save_tiny_llama4
    from halspan.models.plan.inventory import measure as measure_weights

    torch.set_num_threads(1)
    load = {"halspan": load_quantized, "transformers": load_as_transformers}[way]
    with tempfile.TemporaryDirectory() as tiny:
        save_tiny_llama4(Path(tiny))
        load(Path(tiny))  # what is imported on the way is no weight
    before = resident()
    start = time.perf_counter()
    model = load(folder)
    seconds = time.perf_counter() - start
    for parameter in model.parameters():
        parameter.data.view(-1)[:: resource.getpagesize() // 4].clone()  # read what the loader only mapped
    n_bytes = sum(part.bytes for part in measure_weights(model, FAMILIES["llama4"]).values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"bytes": n_bytes, "peak": peak - before, "seconds": seconds}


def load_quantized(folder: Path) -> nn.Module:
    """Load as halspan does."""
    from halspan.models.backbones.loading import load_backbone
    from halspan.models.model_spec import ModelSpec

    spec = ModelSpec(
        backbone=str(folder),
        prompt="What is wrong?",
        context="causal",
        max_tokens=1024,
        pack_tokens=1024,
        dtype="bfloat16",
        attention="sdpa",
        quantize="nf4",
        lora=None,
    )
    model: nn.Module = load_backbone(spec).model
    return model


def load_as_transformers(folder: Path) -> nn.Module:
    """Load the usual way; like halspan, this keeps vision tower, projector, router and vocabulary head as they are."""
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[".*(vision|projector).*", "lm_head", ".*router"],
    )
    model: nn.Module = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=quantization
    )
    return model


def resident() -> int:
    """Return the resident set of this process, bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
