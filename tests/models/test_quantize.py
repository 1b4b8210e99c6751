import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from halspan.core.errors import ModelError
from halspan.models.backbones.components import plain_path, state_of
from halspan.models.backbones.families import FAMILIES
from halspan.models.backbones.loading import load_backbone
from halspan.models.backbones.quantize import Dequantize, quantize
from halspan.models.backbones.shards import StoredTensor
from halspan.models.backbones.synthetic import save_random_llama4
from halspan.models.lora import add_lora
from halspan.models.model_spec import LoraSpec
from halspan.models.plan.inventory import measure
from halspan.testing.tiny_models import MakeSpec

EVERYTHING = LoraSpec(r=4, alpha=8, dropout=0.0, targets=["language", "experts"], rslora=True)
IDS = torch.arange(20, 34).reshape(2, 7)


def pair(make_spec: MakeSpec, dtype: str = "float32") -> tuple[nn.Module, nn.Module]:
    """Return a model in 4 bits, and one with the same weights dequantized."""
    quantized = load_backbone(make_spec(quantize="nf4", dtype=dtype)).model
    plain = load_backbone(make_spec(dtype=dtype)).model
    plain.load_state_dict(dequantized(quantized), strict=False)
    return quantized, plain


def dequantized(model: nn.Module) -> dict[str, Tensor]:
    weights = {}
    for name, parameter in model.named_parameters():
        state = state_of(model, name)
        weights[plain_path(name)] = parameter.data if state is None else dequantize_4bit(parameter.data, state)
    return weights


def with_adapters(model: nn.Module, family: str) -> nn.Module:
    """Put adapters on everything, with weights that depend on their names alone, and no zeros among them."""
    has_experts = FAMILIES[family].experts is not None
    model = add_lora(model, FAMILIES[family], EVERYTHING if has_experts else replace(EVERYTHING, targets=["language"]))
    for number, (_, parameter) in enumerate(sorted(trained(model).items())):
        nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(number))
    return model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    model.train()
    model(input_ids=IDS).logits.float().pow(2).mean().backward()
    return {name: parameter.grad for name, parameter in trained(model).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_are_those_of_the_dequantized_weights(make_spec: MakeSpec, dtype):
    quantized, plain = pair(make_spec, dtype)
    with torch.no_grad():
        for mode in (False, True):
            torch.testing.assert_close(
                quantized.train(mode)(input_ids=IDS).logits, plain.train(mode)(input_ids=IDS).logits, rtol=0, atol=1e-6
            )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_on_4_bits_train_like_adapters_on_the_dequantized_weights(
    request: pytest.FixtureRequest, make_spec: MakeSpec, checkpointing
):
    family = "llava" if "llava" in request.node.name else "llama4"
    quantized, plain = (with_adapters(model, family) for model in pair(make_spec))
    if checkpointing:
        quantized.activation_checkpointing_enable()
    with torch.no_grad():  # as a validation before it does
        torch.testing.assert_close(quantized.eval()(input_ids=IDS).logits, plain.eval()(input_ids=IDS).logits)
    ours, reference = gradients(quantized), gradients(plain)
    assert ours.keys() == reference.keys()
    assert all(gradient.abs().max() > 1e-7 for gradient in reference.values())
    for name, gradient in reference.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-8, msg=name)


def test_every_matrix_of_the_language_tower_is_in_4_bits_and_nothing_else(make_llama4_spec: MakeSpec):
    backbone = load_backbone(make_llama4_spec(quantize="nf4"))
    weights = measure(backbone.model, backbone.family)
    plain = load_backbone(make_llama4_spec()).model
    tower = "language_model.model.layers."
    for name, parameter in plain.named_parameters():
        is_matrix = name.startswith(tower) and parameter.ndim > 1 and "router" not in name
        stored = weights[name]
        assert (stored.dtype == "nf4") == is_matrix, name
        assert stored.parameters == parameter.numel()
    linears = [module for module in backbone.model.modules() if isinstance(module, Linear4bit)]
    assert len(linears) == 2 * 7  # layers; q, k, v, o and the shared expert
    assert sum(isinstance(module, Dequantize) for module in backbone.model.modules()) == 2 * 2
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_bytes_are_half_a_byte_for_a_weight_and_scales(make_llama4_spec: MakeSpec):
    backbone = load_backbone(make_llama4_spec(quantize="nf4"))
    stored = measure(backbone.model, backbone.family)
    experts = stored["language_model.model.layers.0.feed_forward.experts.gate_up_proj"]
    weights = 4 * 64 * 192
    blocks = weights // 64
    tables = 16 * 4 + 256 * 4 + 4  # the 16 values, those of 8-bit scales, the offset
    assert experts.bytes == weights // 2 + blocks + -(blocks // -256) * 4 + tables
    assert (experts.component, experts.parameters) == ("experts", weights)


@pytest.mark.parametrize("shape", [(7, 130), (3, 40, 192), (2**12 + 5, 2**10 + 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantizing_in_pieces_is_bitsandbytes_quantizing_at_once(shape, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    bits, state = quantize(weight)
    theirs, their_state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert bits.equal(theirs)
    assert state == their_state
    assert dequantize_4bit(bits, state).equal(dequantize_4bit(theirs, their_state))


@pytest.mark.parametrize("adapted", [False, True])
def test_no_dequantized_expert_outlives_the_forward_pass(make_llama4_spec: MakeSpec, adapted):
    backbone = load_backbone(make_llama4_spec(quantize="nf4"))
    model = with_adapters(backbone.model, "llama4") if adapted else backbone.model
    made = []
    for module in model.modules():
        if isinstance(module, Dequantize):
            module.register_forward_hook(lambda _m, _i, weight: made.append(StorageWeakRef(weight.untyped_storage())))
    embeddings = model.get_input_embeddings()(IDS).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings).logits
    n_forward = len(made)
    assert n_forward
    assert all(storage.expired() for storage in made)
    logits.sum().backward()
    assert len(made) == n_forward + 4  # layers, parameters
    assert all(storage.expired() for storage in made)


def test_scales_move_with_the_weights_and_keep_their_type(make_llama4_spec: MakeSpec):
    model = load_backbone(make_llama4_spec(quantize="nf4")).model
    experts = model.get_submodule("language_model.model.layers.0.feed_forward.experts")
    state = experts.parametrizations.down_proj[0].state
    experts.to(torch.bfloat16)
    assert state.state2.absmax.dtype == torch.float32
    experts.to("meta")
    assert state.absmax.is_meta
    assert state.state2.absmax.is_meta


def test_experts_that_nobody_named_are_an_error_that_names_them(make_llama4_spec: MakeSpec, monkeypatch):
    monkeypatch.setitem(FAMILIES, "llama4", replace(FAMILIES["llama4"], experts=None))
    with pytest.raises(
        ModelError, match=r"nf4 left 7\d\.\d% .* more than 2%; the largest: .*experts\.gate_up_proj \(4"
    ):
        load_backbone(make_llama4_spec(quantize="nf4"))


def test_a_narrow_matrix_is_an_error_before_any_weight_is_read(tmp_path: Path, make_llama4_spec: MakeSpec, monkeypatch):
    def fail(self, index):
        raise AssertionError("a weight was read")

    save_random_llama4(tmp_path, {"intermediate_size": 48}, dtype=torch.float32, shard_bytes=2**30)
    monkeypatch.setattr(StoredTensor, "__getitem__", fail)
    message = (
        r"rows of at least 64 weights, its block; 2 matrices have less, such as .*shared_expert.down_proj.* of \(64"
    )
    with pytest.raises(ModelError, match=message):
        load_backbone(make_llama4_spec(backbone=str(tmp_path), quantize="nf4"))


def test_bitsandbytes_missing_is_an_error_that_says_what_to_install(make_llama4_spec: MakeSpec, monkeypatch):
    for name in ("bitsandbytes", "bitsandbytes.functional"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "halspan.models.backbones.quantize")  # it imports bitsandbytes at its top
    with pytest.raises(
        ModelError, match=r"needs bitsandbytes, .*pip install 'halspan\[train\]', or set model.quantize"
    ):
        load_backbone(make_llama4_spec(quantize="nf4"))


def test_parameters_shared_by_two_components_count_once(make_llava_spec: MakeSpec):
    backbone = load_backbone(make_llava_spec())  # its embeddings are its vocabulary head
    weights = measure(backbone.model, backbone.family)
    total = sum(tensor.nbytes for tensor in (*backbone.model.parameters(), *backbone.model.buffers()))
    assert sum(stored.bytes for stored in weights.values()) == total
    assert "vocabulary head" not in {stored.component for stored in weights.values()}
