from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from halspan.models.backbones.loading import TINY_LLAMA4, load_backbone
from halspan.models.backbones.tiny import save_tiny_llama4
from halspan.models.model_spec import ModelSpec
from halspan.testing.tiny_models import TEXTS


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(
        ModelSpec(
            backbone=TINY_LLAMA4,
            prompt="What is wrong?",
            context="causal",
            max_tokens=1024,
            pack_tokens=1024,
            dtype="float32",
            attention="eager",
            lora=None,
        )
    )


def test_weights_are_a_function_of_the_seed_alone(tmp_path: Path):
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        save_tiny_llama4(tmp_path / name, seed=seed)
    first, again, other = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "again", "other"))
    assert all(first[name].equal(again[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)
    tokenizers = [(tmp_path / name / "tokenizer.json").read_text() for name in ("first", "again", "other")]
    assert len(set(tokenizers)) == 1


def test_it_is_a_llama4_of_a_few_hundred_thousand_parameters(backbone):
    assert type(backbone.model).__name__ == "Llama4ForConditionalGeneration"
    assert 300_000 < backbone.model.num_parameters() < 600_000
    layers = backbone.model.config.text_config.no_rope_layers
    assert set(layers) == {0, 1}  # some with rotary positions, some without


@pytest.mark.parametrize("text", TEXTS)
def test_any_language_survives_the_tokenizer(backbone, text):
    ids = backbone.processor.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert backbone.processor.tokenizer.decode(ids, skip_special_tokens=False) == text


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_the_tokenizer(backbone, text):
    ids = backbone.processor.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert backbone.processor.tokenizer.decode(ids, skip_special_tokens=False) == text


def test_common_words_are_fewer_tokens_than_letters(backbone):
    text = "The image shows a man and a woman standing on the left side of a street."
    assert len(backbone.processor.tokenizer(text, add_special_tokens=False)["input_ids"]) < len(text) / 2
