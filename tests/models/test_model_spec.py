from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from tiny_models import MakeSpec

from halspan.models.families import FAMILIES
from halspan.models.spec import LoraSpec, ModelSpec

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))


def test_there_are_model_configs():
    names = {file.stem for file in CONFIGS}
    assert {"shapes", "llama4_tiny", "llama4_scout"} <= names
    assert {"internvl3" if family == "internvl" else family for family in FAMILIES} - {"llama4"} <= names


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_gives_every_key_of_its_spec_and_no_other(file):
    config = yaml.safe_load(file.read_text())
    assert config.pop("_target_") == "halspan.models.spec.ModelSpec"
    ModelSpec(**config)
    assert set(config) == set(ModelSpec.__dataclass_fields__)
    assert set(config["lora"]) == set(LoraSpec.__dataclass_fields__)


@pytest.mark.parametrize(
    ("key", "value", "options"),
    [
        ("context", "sideways", "'causal', 'echo', 'bidirectional' or 'bidirectional_sentence'"),
        ("dtype", "float8", "'float32' or 'bfloat16'"),
        ("attention", "flash", "'eager' or 'sdpa'"),
        ("quantize", "int8", "'nf4'"),
        ("max_tokens", 0, "greater than or equal to 1"),
        ("prompt", "", "at least 1 character"),
    ],
)
def test_a_value_that_is_not_possible_names_the_options(make_llava_spec: MakeSpec, key, value, options):
    with pytest.raises(ValidationError, match=options) as caught:
        make_llava_spec(**{key: value})
    assert caught.value.errors()[0]["loc"] == (key,)


def test_an_unknown_key_is_an_error(make_llava_spec: MakeSpec):
    with pytest.raises(ValidationError, match="contex\n"):
        make_llava_spec(contex="causal")


@pytest.mark.parametrize("change", [{"r": 0}, {"dropout": 1.0}, {"targets": []}, {"alpha": -1.0}, {"rslora": "yes"}])
def test_impossible_adapters_are_an_error(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        LoraSpec(**({"r": 4, "alpha": 8, "dropout": 0.0, "targets": ["language"]} | change))
