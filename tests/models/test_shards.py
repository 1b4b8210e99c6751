import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from halspan.core.errors import ModelError
from halspan.models.backbones.loading import load_backbone
from halspan.models.backbones.shards import INDEX, open_checkpoint
from halspan.models.backbones.synthetic import save_random_llama4
from halspan.testing.tiny_models import MakeSpec

LAYER = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_local_experts": 2}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Return the folder of a Llama-4 in several shards."""
    save_random_llama4(tmp_path, LAYER, dtype=torch.bfloat16, shard_bytes=100_000)
    return tmp_path


def test_a_checkpoint_in_shards_is_read_as_it_was_written(sharded: Path, make_llama4_spec: MakeSpec):
    written = {name: weight for file in sharded.glob("*.safetensors") for name, weight in load_file(file).items()}
    read = load_backbone(make_llama4_spec(backbone=str(sharded), dtype="bfloat16")).model.state_dict()
    assert len(list(sharded.glob("*.safetensors"))) > 3
    assert written.keys() == read.keys()
    assert all(written[name].equal(read[name]) for name in written)


def test_what_is_stored_is_known_without_reading_it(sharded: Path):
    stored = open_checkpoint(str(sharded), None)["language_model.model.layers.1.feed_forward.experts.gate_up_proj"]
    assert (stored.shape, stored.dtype) == ((2, 128, 128), "BF16")
    assert stored[1, :3, 5:].shape == (3, 123)


def test_a_missing_shard_is_an_error_that_names_it(sharded: Path, make_llama4_spec: MakeSpec):
    (sharded / "model-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot be read: model-00002.safetensors is missing in"):
        load_backbone(make_llama4_spec(backbone=str(sharded)))


def test_a_shard_without_what_the_index_promises_is_an_error_that_names_it(sharded: Path, make_llama4_spec: MakeSpec):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["language_model.model.layers.2.input_layernorm.weight"] = "model-00001.safetensors"
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names 1 weights that are in none of the \d+ shards, such as .*layers\.2"):
        load_backbone(make_llama4_spec(backbone=str(sharded)))


def test_a_shard_that_ends_early_is_an_error_before_any_weight_is_read(sharded: Path):
    file = sharded / "model-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(Exception, match="incomplete"):
        open_checkpoint(str(sharded), None)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_of_a_quantized_type_are_an_error_that_names_them(sharded: Path, make_llama4_spec: MakeSpec, dtype):
    file = sharded / "model-00001.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    save_file(weights | {name: weights[name].to(dtype)}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"stores 1 weights as \w+, such as {name}: it is already quantized; give"):
        load_backbone(make_llama4_spec(backbone=str(sharded)))
