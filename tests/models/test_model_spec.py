from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from halspan.models.backbones.families import FAMILIES
from halspan.models.heads.specs import ComparingHead, LinearSentences, LinearTokens, PoolingHead
from halspan.models.model_spec import LoraSpec, ModelSpec
from halspan.testing.tiny_models import MakeSpec

CONF = Path(__file__).parents[2] / "conf" / "model"
CONFIGS = sorted(CONF.glob("[!_]*.yaml"))
BASE = yaml.safe_load((CONF / "_base.yaml").read_text())
TARGET = "halspan.models.model_spec.ModelSpec"


def test_there_are_model_configs():
    names = {file.stem for file in CONFIGS}
    assert {"shapes", "llama4_tiny", "llama4_scout"} <= names
    assert {"internvl3" if family == "internvl" else family for family in FAMILIES} - {"llama4"} <= names


def test_the_base_gives_every_key_of_the_spec_and_no_other():
    assert BASE["_target_"] == TARGET
    assert list(BASE)[1:] == list(ModelSpec.__dataclass_fields__)
    assert set(BASE["lora"]) == set(LoraSpec.__dataclass_fields__)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_has_only_keys_of_the_base_with_other_values(file):
    config = yaml.safe_load(file.read_text())
    assert config.pop("defaults") == ["_base", "_self_"]
    lora = config.pop("lora", {})
    assert config.items() & {key: value for key, value in BASE.items() if not isinstance(value, dict)}.items() == set()
    assert set(config) <= set(BASE)
    assert not lora.items() & {key: value for key, value in BASE["lora"].items() if key != "targets"}.items()
    merged = BASE | config | {"lora": BASE["lora"] | lora}
    assert merged.pop("_target_") == TARGET
    assert ModelSpec(**merged).backbone == config["backbone"]


@pytest.mark.parametrize(
    ("key", "value", "options"),
    [
        ("context", "sideways", "'causal', 'echo', 'bidirectional' or 'bidirectional_sentence'"),
        ("dtype", "float8", "'float32' or 'bfloat16'"),
        ("attention", "flash", "'eager', 'sdpa' or 'flex'"),
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


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"name": "lineer"}, "token head 'lineer' is not registered; did you mean linear? if not, install the package"),
        ({"name": "pooling"}, "token head 'pooling' is not registered; install the package that provides it"),
        ({"name": "linear", "width": 8}, "token head 'linear' has no setting 'width'; it has no settings"),
        ("linear", "'linear' does not name a head; write {name: comparing}, with its settings"),
        (PoolingHead(), "registered: comparing, linear"),
    ],
)
def test_a_head_that_there_is_not_names_those_that_there_are(make_llava_spec: MakeSpec, head, message):
    with pytest.raises(ValidationError) as caught:
        make_llava_spec(token_head=head)
    assert message in caught.value.errors()[0]["msg"]
    assert caught.value.errors()[0]["loc"] == ("token_head",)


def test_heads_are_named_with_their_settings_and_kept_when_a_spec_is_changed(make_llava_spec: MakeSpec):
    spec = make_llava_spec(token_head={"name": "linear"}, sentence_head={"name": "linear"})
    assert (spec.token_head, spec.sentence_head) == (LinearTokens(), LinearSentences())
    assert replace(spec, dtype="bfloat16").token_head == spec.token_head
    assert (make_llava_spec().token_head, make_llava_spec().sentence_head) == (ComparingHead(), PoolingHead())
