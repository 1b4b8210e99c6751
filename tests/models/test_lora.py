import re

import pytest
import torch

from halspan.core.errors import ModelError
from halspan.models.backbones.families import DEFAULT, FAMILIES
from halspan.models.backbones.loading import Backbone, load_backbone
from halspan.models.lora import add_lora, find_targets
from halspan.models.model_spec import LoraSpec
from halspan.testing.tiny_models import MakeSpec


def lora(*targets: str, **changes) -> LoraSpec:
    return LoraSpec(**({"r": 2, "alpha": 4, "dropout": 0.0, "targets": list(targets)} | changes))


def put(backbone: Backbone, spec: LoraSpec) -> torch.nn.Module:
    """Put adapters on a backbone."""
    return add_lora(backbone.model, backbone.family, spec)


def adapted(model: torch.nn.Module) -> set[str]:
    """Return the paths of adapted layers, with # for numbers."""
    paths = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    return {re.sub(r"\b\d+\b", "#", path.removeprefix("base_model.model.")) for path in paths}


def test_components_are_the_language_towers_linear_layers(make_spec: MakeSpec):
    model = put(load_backbone(make_spec()), lora("language"))
    names = {path.rsplit(".", 1)[1] for path in adapted(model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert not any("vision" in path or "projector" in path for path in adapted(model))


@pytest.mark.parametrize("component", ["language", "projector", "vision"])
def test_every_component_of_every_family_matches_something(make_spec: MakeSpec, component):
    backbone = load_backbone(make_spec())
    assert adapted(put(backbone, lora(component)))


def test_only_adapters_are_trainable(make_spec: MakeSpec):
    model = put(load_backbone(make_spec()), lora("language"))
    assert all(parameter.requires_grad == ("lora_" in name) for name, parameter in model.named_parameters())


def test_a_pattern_has_to_match_the_whole_path(make_llava_spec: MakeSpec):
    backbone = load_backbone(make_llava_spec())
    with pytest.raises(ModelError, match=r"model.lora.targets: 'q_proj' matches no linear layer; names: language"):
        find_targets(backbone.model, backbone.family, ["q_proj"])
    pattern = r"model\.language_model\.layers\.1\.self_attn\.q_proj"
    assert adapted(put(backbone, lora(pattern))) == {"model.language_model.layers.#.self_attn.q_proj"}


def test_a_pattern_that_matches_nothing_is_an_error_that_lists_the_layers(make_spec: MakeSpec):
    backbone = load_backbone(make_spec())
    with pytest.raises(ModelError, match=r"layers\\\.99' matches no linear layer.*layers\.#\.self_attn\.q_proj"):
        find_targets(backbone.model, backbone.family, ["language", r".*\.layers\.99"])


def test_a_pattern_that_is_no_regular_expression_is_an_error(make_llava_spec: MakeSpec):
    backbone = load_backbone(make_llava_spec())
    with pytest.raises(ModelError, match=r"'\(q_proj' is not a regular expression: missing \)"):
        find_targets(backbone.model, backbone.family, ["(q_proj"])


def test_experts_are_adapted_as_parameters(make_llama4_spec: MakeSpec):
    backbone = load_backbone(make_llama4_spec())
    model = put(backbone, lora("experts", rslora=True))
    of_experts = "language_model.model.layers.#.feed_forward.experts"
    assert adapted(model) == {of_experts, f"{of_experts}.base_layer"}  # one wrapper for each of two parameters
    ids = torch.arange(7)[None]
    model(input_ids=ids).logits.sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2  # layers, parameters, A and B
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in trained.items() if ".lora_B." in name)


def test_a_family_without_experts_says_so(make_llava_spec: MakeSpec):
    backbone = load_backbone(make_llava_spec())
    with pytest.raises(ModelError, match="'experts' matches nothing: LlavaForConditionalGeneration has no"):
        find_targets(backbone.model, backbone.family, ["language", "experts"])


@pytest.mark.parametrize("wrong", [{"dropout": 0.1}, {"rslora": False}, {"dora": True}])
def test_adapters_that_experts_cannot_have_are_refused(wrong):
    with pytest.raises(ValueError, match=r"targets name 'experts'.*set dropout to 0, dora to false and rslora to true"):
        lora("language", "experts", **({"rslora": True} | wrong))


@pytest.mark.parametrize("variant", [{"rslora": True}, {"dora": True}])
def test_variants_of_lora_are_pefts(make_llava_spec: MakeSpec, variant):
    config = put(load_backbone(make_llava_spec()), lora("language", **variant)).peft_config["default"]
    assert (config.use_rslora, config.use_dora) == (variant.get("rslora", False), variant.get("dora", False))


def test_the_default_finds_in_known_families_what_their_own_entries_name(make_spec: MakeSpec):
    backbone = load_backbone(make_spec())
    paths = [name for name, module in backbone.model.named_modules() if isinstance(module, torch.nn.Linear)]
    own = [path for path in paths if re.fullmatch(backbone.family.layers["language"], path)]
    assert own == [path for path in paths if re.fullmatch(DEFAULT.layers["language"], path)]


def test_parts_of_a_family_do_not_overlap(make_spec: MakeSpec):
    backbone = load_backbone(make_spec())
    for name, _ in backbone.model.named_parameters():
        parts = [
            pattern for pattern in (backbone.family.vision, backbone.family.projector) if re.fullmatch(pattern, name)
        ]
        assert len(parts) == ("vision" in name or "projector" in name), name


def test_families_are_named_as_transformers_names_them():
    from transformers import CONFIG_MAPPING

    assert set(FAMILIES) <= set(CONFIG_MAPPING)
