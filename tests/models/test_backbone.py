import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from halspan.core.errors import ModelError
from halspan.models.backbones.loading import load_backbone
from halspan.testing.tiny_models import MakeSpec


@pytest.fixture
def folder(tiny_llava: Path, tmp_path: Path) -> Path:
    """Return a copy of a checkpoint, to be spoiled."""
    return Path(shutil.copytree(tiny_llava, tmp_path / "copy"))


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_local_folder_loads_frozen_with_the_pil_backend(make_llava_spec: MakeSpec):
    backbone = load_backbone(make_llava_spec())
    assert type(backbone.model).__name__ == "LlavaForConditionalGeneration"
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert backbone.processor.image_processor.backend == "pil"


def test_dtype_and_attention_are_the_specs(make_spec: MakeSpec):
    model = load_backbone(make_spec(dtype="bfloat16", attention="sdpa")).model
    assert str(model.dtype) == "torch.bfloat16"
    assert model.config._attn_implementation == "sdpa"


def test_weights_are_loaded_and_not_drawn_again(make_spec: MakeSpec):
    first, again = (load_backbone(make_spec()).model.state_dict() for _ in range(2))
    assert all(first[name].equal(again[name]) for name in first)


def test_missing_weights_are_an_error_that_names_them(folder: Path, make_llava_spec: MakeSpec):
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("layers.0.mlp.down_proj.weight"))]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 missing weights for a LlavaForConditionalGeneration: .*down_proj"):
        load_backbone(make_llava_spec(backbone=str(folder)))


def test_unexpected_weights_are_an_error_that_names_them(folder: Path, make_llava_spec: MakeSpec):
    weights = load_file(folder / "model.safetensors")
    weights["language_model.model.stem.weight"] = weights[next(iter(weights))].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 unexpected weights .*stem.weight"):
        load_backbone(make_llava_spec(backbone=str(folder)))


def test_weights_of_another_shape_are_an_error_that_names_them(folder: Path, make_llava_spec: MakeSpec):
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config=config["text_config"] | {"intermediate_size": 80})
    with pytest.raises(ModelError, match=r"6 mismatched weights .*down_proj"):
        load_backbone(make_llava_spec(backbone=str(folder)))


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path: Path, make_llava_spec: MakeSpec):
    with pytest.raises(ModelError, match=r"has no config.json, so it holds no checkpoint; give a folder"):
        load_backbone(make_llava_spec(backbone=str(tmp_path)))


def test_a_folder_without_weights_is_an_error(folder: Path, make_llava_spec: MakeSpec):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the folder cannot be read: .*model.safetensors.*; repair or replace it"):
        load_backbone(make_llava_spec(backbone=str(folder)))


def test_a_truncated_weights_file_is_an_error(folder: Path, make_llava_spec: MakeSpec):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="the folder cannot be read"):
        load_backbone(make_llava_spec(backbone=str(folder)))


def test_a_config_of_no_known_model_is_an_error(folder: Path, make_llava_spec: MakeSpec):
    edit(folder / "config.json", model_type="nonsense")
    with pytest.raises(ModelError, match=r"is a .nonsense., which transformers does not know and no installed package"):
        load_backbone(make_llava_spec(backbone=str(folder)))


def test_a_config_that_is_no_json_is_an_error(folder: Path, make_llava_spec: MakeSpec):
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="the folder cannot be read"):
        load_backbone(make_llava_spec(backbone=str(folder)))


def test_a_model_of_text_alone_is_an_error(tmp_path: Path, folder: Path, make_llava_spec: MakeSpec):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config["text_config"] | {"architectures": ["Qwen3ForCausalLM"]}))
    with pytest.raises(ModelError, match=r"is a 'qwen3' \(Qwen3Config\), .*no model that reads an image"):
        load_backbone(make_llava_spec(backbone=str(folder)))


@pytest.mark.parametrize("name", ["nobody/nothing", "checkpoints/absent", "./absent/folder"])
def test_a_name_that_is_neither_folder_nor_known_offline_is_an_error(monkeypatch, make_llava_spec: MakeSpec, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=rf"'{name}': no folder, and as a hub id cannot be read.*download the hub id"):
        load_backbone(make_llava_spec(backbone=name))


def test_an_unknown_builtin_is_an_error_that_lists_what_there_is(make_llava_spec: MakeSpec):
    with pytest.raises(
        ModelError, match="'builtin:llama5' is not built in; what is: builtin:shapes, builtin:llama4-tiny"
    ):
        load_backbone(make_llava_spec(backbone="builtin:llama5"))
