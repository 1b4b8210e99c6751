"""Backbones in shards: processes of their own, each beside the same detector whole."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from sharding_worker import cast_by_fsdp, compare

from halspan.core.errors import ModelError
from halspan.models.backbones.depth import layer_number
from halspan.models.backbones.shards import StoredTensor
from halspan.models.backbones.synthetic import save_random_llama4
from halspan.models.detector import build_detector
from halspan.models.model_spec import LoraSpec
from halspan.models.sharding.processes import rows_of
from halspan.testing.tiny_families import PROMPTS, save_tiny
from halspan.testing.tiny_models import TAXONOMY

WORKER = Path(__file__).parent / "sharding_worker.py"

LORA = LoraSpec(r=4, alpha=8, dropout=0.0, rslora=True, targets=["language", "experts"])

Case = dict[str, Any]
Results = list[list[Case]]


def start(folder: Path, family: str, cases: list[Case], *, processes: int) -> Results:
    """Run cases in several processes; return the results of each process."""
    if not (folder / "backbone").exists():
        save_tiny(family, folder / "backbone")
    common = [str(processes), str(folder), str(folder / "backbone"), family, *map(json.dumps, cases)]
    running = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), *common],
            # glibc would keep the memory of layers that have gone
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    failed = [text[-3000:] for process, text in zip(running, said, strict=True) if process.returncode]
    assert not failed, "\n\n".join(failed)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


CASES: dict[str, Case] = {
    "bf16": {"do": "compare", "dtype": "bfloat16"},
    "nf4": {"do": "compare", "quantize": "nf4"},
    "other work": {"do": "differ in work", "quantize": "nf4"},
    "cast": {"do": "cast"},
}
SLOW: dict[str, Case] = {
    "float32": {"do": "compare"},
    "float32, recomputed": {"do": "compare", "gradient_checkpointing": True},
    "nf4, computed in bf16": {"do": "compare", "quantize": "nf4", "dtype": "bfloat16"},
    "nf4, recomputed": {"do": "compare", "quantize": "nf4", "gradient_checkpointing": True},
    "nf4, sdpa": {"do": "compare", "quantize": "nf4", "attention": "sdpa"},
    "nf4, upper layer alone": {"do": "compare", "quantize": "nf4", "lora": {"layers": 1}},
    "nf4, heads alone": {"do": "compare", "quantize": "nf4", "lora": None},
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Case]]:
    """Run the tiny Llama-4 in two processes; give the results of both for each case."""
    results = start(tmp_path_factory.mktemp("two"), "llama4", list(CASES.values()), processes=2)
    return {name: [of_one[number] for of_one in results] for number, name in enumerate(CASES)}


def is_right(found: Case) -> bool:
    """Return whether a detector in shards was the same as the whole one, and its shards those of the plan."""
    assert found["bytes in shards"] == found["planned bytes in shards"]
    return all(value for value in found.values() if isinstance(value, bool))


@pytest.mark.parametrize("name", ["bf16", "nf4"])
def test_a_detector_in_shards_gives_the_numbers_of_one_process_bit_for_bit(two, name):
    for found in two[name]:
        assert found["forward"]
        assert found["inference"]
        assert found["gradients"]
        assert (
            found["n_gradients"] == 2 * 2 * 9 + 14
        )  # layers; A and B; matrices and expert parameters; weights of heads


@pytest.mark.parametrize("name", ["bf16", "nf4"])
def test_each_process_has_its_share_of_the_layers_as_planned_and_adapters_whole(two, name):
    for found in two[name]:
        assert found["bytes in shards"] == found["planned bytes in shards"]
        assert found["adapters are whole"]
        assert found["inventory"]
        assert found["counts"]
    assert sum(found["bytes in shards"] for found in two[name]) == two[name][0]["bytes in all shards"]


@pytest.mark.parametrize("name", ["bf16", "nf4"])
def test_each_weight_of_a_layer_is_read_once_by_one_process(two, name):
    first, second = (found["read"] for found in two[name])
    in_layers = {path for path in first | second if layer_number(path) is not None}
    assert {layer_number(path) for path in in_layers} == {0, 1}
    assert all(first.get(path, 0) + second.get(path, 0) == 1 for path in in_layers)
    assert {layer_number(path) for path in first} == {None, 0}
    assert {layer_number(path) for path in second} == {None, 1}


def test_a_process_with_less_work_takes_part_without_changing_anything(two):
    assert all(found["forward"] and found["gradients"] for found in two["other work"])


def test_weights_that_do_not_arrive_as_they_were_read_end_the_run_in_every_process(two):
    for found in two["cast"]:
        assert re.match(
            r"trainer.strategy: layer 0 of the text decoder in shards differs from the whole", found["error"]
        )


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """Let this process be the only one of a group."""
    dist.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("settings", [{"quantize": "nf4"}, {"dtype": "bfloat16"}], ids=["nf4", "bf16"])
def test_a_process_alone_gives_the_same_numbers_in_shards(make_llama4_spec, settings):
    assert is_right(compare(make_llama4_spec(**settings, lora=LORA)))


@pytest.mark.usefixtures("alone")
def test_a_layer_that_differs_is_named_with_how_much(make_llama4_spec):
    assert "states by 0." in cast_by_fsdp(make_llama4_spec())["error"]


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_with_a_weight_of_another_shape_is_refused(make_llama4_spec, tmp_path):
    folder = tmp_path / "backbone"
    save_tiny("llama4", folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("layers.1.self_attn.q_proj.weight"))
    save_file(weights | {name: torch.zeros(3, 64)}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"q_proj.weight: has shape \(3, 64\) in the checkpoint and \(64, 64\) in the"):
        build_detector(make_llama4_spec(backbone=str(folder)), TAXONOMY, in_shards=True)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("path", ["layers.1.self_attn.q_proj.weight", "model.norm.weight"])
def test_weights_that_nobody_read_are_refused(make_llama4_spec, monkeypatch, path):
    """As where a family's checkpoint has names of layers that its model has not."""
    read = StoredTensor.__getitem__

    def elsewhere(stored: StoredTensor, index: object) -> torch.Tensor:
        tensor = read(stored, index)
        return torch.full_like(tensor, float("nan")) if stored.name.endswith(path) else tensor

    monkeypatch.setattr(StoredTensor, "__getitem__", elsewhere)
    with pytest.raises(ModelError, match=f"{path}: was read by none of the processes"):
        build_detector(make_llama4_spec(), TAXONOMY, in_shards=True)


@pytest.mark.slow
def test_other_settings_give_the_numbers_of_one_process_too(tmp_path):
    for of_one in start(tmp_path, "llama4", list(SLOW.values()), processes=2):
        assert [is_right(found) for found in of_one] == [True] * len(SLOW)


@pytest.mark.slow
@pytest.mark.parametrize("family", PROMPTS)
def test_every_family_in_three_uneven_shards_gives_the_numbers_of_one_process(family, tmp_path):
    for of_one in start(tmp_path, family, [{"do": "compare"}, {"do": "compare", "quantize": "nf4"}], processes=3):
        assert [is_right(found) for found in of_one] == [True, True]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_process_has_its_shard_and_a_few_layers_in_memory_while_it_reads_and_never_the_whole(tmp_path):
    widths = {"hidden_size": 512, "intermediate_size": 1024, "intermediate_size_mlp": 2048, "num_attention_heads": 4}
    widths |= {"num_key_value_heads": 1, "head_dim": 128, "num_hidden_layers": 24, "num_local_experts": 8}
    save_random_llama4(tmp_path / "backbone", widths, dtype=torch.bfloat16, shard_bytes=2**27)
    for (found,) in start(tmp_path, "llama4", [{"do": "read", "dtype": "bfloat16", "lora": None}], processes=2):
        assert found["own"] < 0.51 * found["whole"]
        # at most a weight at hand, the compared layer, and the three that the plan allows for a pass
        assert found["most"] < found["own"] + 5 * found["layer"] < 0.71 * found["whole"]


@pytest.mark.parametrize("n_rows", [0, 1, 2, 5, 8])
def test_rows_are_divided_as_torch_divides_them(n_rows):
    rows = list(range(n_rows))
    parts = [rows[slice(*rows_of(n_rows, process, 3))] for process in range(3)]
    chunks = [chunk.tolist() for chunk in torch.chunk(torch.arange(n_rows), 3)] if n_rows else []
    assert [part for part in parts if part] == [chunk for chunk in chunks if chunk]
    assert [row for part in parts for row in part] == rows
