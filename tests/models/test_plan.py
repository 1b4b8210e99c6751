import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from halspan.core.errors import ModelError
from halspan.models.backbones.components import nf4_bytes
from halspan.models.backbones.families import family_of
from halspan.models.detector import build_detector
from halspan.models.model_spec import LoraSpec, ModelSpec
from halspan.models.plan import skeleton as skeleton_module
from halspan.models.plan.activations import estimate_activations
from halspan.models.plan.inventory import take_inventory
from halspan.models.plan.memory import PassSize, make_plan
from halspan.models.plan.remedies import Device, combine_remedies, find_remedies, require_room, shrink_to_fit
from halspan.models.plan.skeleton import Skeleton, build_skeleton, shipped_ids
from halspan.testing.tiny_models import TAXONOMY, MakeSpec

SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
CONF = Path(__file__).parents[2] / "conf" / "model"
CONFIGURATIONS = Path(skeleton_module.__file__).parent / "configurations"
GIB = 2**30
ONE_ROW = PassSize(tokens=1024, is_mixed=True)

# parameters that the hub's safetensors metadata counts
PUBLISHED = {
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2_246_784_880,
    "OpenGVLab/InternVL3-8B-hf": 7_944_373_760,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "google/gemma-3-12b-it": 12_187_325_040,
    "google/paligemma-3b-mix-448": 2_924_351_216,
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "meta-llama/Llama-3.2-11B-Vision-Instruct": 10_670_220_835,
    SCOUT: 108_641_793_536,
}
# of these only the rounded figure that the hub's page shows is at hand, in billions
ROUNDED = {"HuggingFaceM4/Idefics3-8B-Llama3": 8.46, "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.03}


def adapters(*targets: str, **changes: Any) -> LoraSpec:
    return LoraSpec(**({"r": 2, "alpha": 4, "dropout": 0.0, "targets": list(targets), "rslora": True} | changes))


def shipped_config(hub_id: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGURATIONS / f"{hub_id.replace('/', '--')}.json").read_text())
    return config


def configured(name: str) -> ModelSpec:
    base, own = (yaml.safe_load((CONF / f"{file}.yaml").read_text()) for file in ("_base", name))
    del base["_target_"], own["defaults"]
    return ModelSpec(**(base | own | {"lora": base["lora"] | own.get("lora", {})}))


def test_every_configuration_that_is_shipped_has_published_figures():
    assert shipped_ids() == sorted(PUBLISHED | ROUNDED, key=str)


@pytest.mark.parametrize("hub_id", PUBLISHED | ROUNDED)
def test_a_shipped_configuration_has_as_many_parameters_as_the_model_on_the_hub(make_llava_spec: MakeSpec, hub_id):
    skeleton = build_skeleton(make_llava_spec(backbone=hub_id, dtype="bfloat16", lora=None), n_types=2)
    parameters = list(skeleton.detector.backbone.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    assert total == PUBLISHED.get(hub_id, total)
    assert round(total / 1e9, 2) == ROUNDED.get(hub_id, round(total / 1e9, 2))
    assert all(parameter.is_meta for parameter in parameters)


def test_the_shipped_scout_scales_its_positions_as_the_checkpoint_does():
    text = shipped_config(SCOUT)["text_config"]
    assert text["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    }


def test_the_shipped_llava_onevision_has_the_padded_vocabulary_of_the_checkpoint():
    assert shipped_config("llava-hf/llava-onevision-qwen2-7b-ov-hf")["text_config"]["vocab_size"] == 152_128


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_inventory_of_shapes_is_that_of_the_loaded_detector(make_spec: MakeSpec, dtype):
    spec = make_spec(dtype=dtype)
    loaded, _ = build_detector(spec, TAXONOMY)
    skeleton = build_skeleton(spec, n_types=len(TAXONOMY))
    inventory = take_inventory(skeleton.detector)
    assert inventory == take_inventory(loaded)
    tensors = [*loaded.parameters(), *loaded.buffers()]
    assert sum(part.bytes for part in inventory) == sum(tensor.nbytes for tensor in tensors)


def test_the_inventory_in_4_bits_is_that_of_the_quantized_detector(make_llama4_spec: MakeSpec):
    spec = make_llama4_spec(quantize="nf4", lora=adapters("language", "experts"))
    loaded, _ = build_detector(spec, TAXONOMY)
    skeleton = build_skeleton(spec, n_types=len(TAXONOMY))
    assert take_inventory(skeleton.detector, quantize="linear layers and experts") == take_inventory(loaded)


def test_the_components_of_the_tiny_llama4_are_counted_by_hand(make_llama4_spec: MakeSpec):
    skeleton = build_skeleton(make_llama4_spec(lora=adapters("language", "experts")), n_types=2)
    parts = {part.component: part.parameters for part in take_inventory(skeleton.detector)}
    matrix = 64 * 64
    assert parts["embeddings"] == parts["vocabulary head"] == 640 * 64
    assert parts["experts"] == 2 * 4 * 3 * 64 * 96  # layers, experts, matrices
    # each of 2 layers: q and o, k and v, shared expert, router, two norms; the last norm; 8 rotary frequencies, twice
    assert parts["language tower"] == 2 * (2 * matrix + 2 * 64 * 32 + 3 * 64 * 96 + 4 * 64 + 2 * 64) + 64 + 2 * 8
    # of rank 2: q, k, v, o, gate, up, down, and for each of 4 experts gate_up and down
    linear = (64 + 64) + 2 * (64 + 32) + (64 + 64) + 2 * (64 + 96) + (96 + 64)
    assert parts["adapters"] == 2 * 2 * (linear + 4 * (64 + 192) + 4 * (96 + 64))


def test_nf4_takes_the_bytes_that_bitsandbytes_uses():
    functional = pytest.importorskip("bitsandbytes.functional")
    for shape in ((64, 64), (96, 160), (1024, 768)):
        packed, state = functional.quantize_4bit(torch.randn(shape), quant_type="nf4", compress_statistics=True)
        stored = [packed, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
        assert nf4_bytes(shape[0] * shape[1]) == sum(tensor.nbytes for tensor in stored)


def test_4_bit_takes_the_language_towers_matrices_and_the_experts(make_llama4_spec: MakeSpec):
    skeleton = build_skeleton(make_llama4_spec(), n_types=2)

    def in_4_bit(**options: Any) -> dict[str, int]:
        inventory = take_inventory(skeleton.detector, **options)
        return {part.component: part.parameters for part in inventory if part.dtype == "nf4"}

    linear = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert in_4_bit() == {}
    assert in_4_bit(quantize="linear layers") == {"language tower": linear}
    assert in_4_bit(quantize="linear layers and experts") == {"language tower": linear, "experts": 2 * 4 * 3 * 64 * 96}


def test_scout_fits_80_gib_with_its_experts_in_4_bit_and_not_without():
    plan = make_plan(configured("llama4_scout"), ONE_ROW)
    parts = {(part.component, part.dtype): part for part in plan.weights}
    n_experts = 48 * 16 * 3 * 5120 * 8192  # layers, experts, matrices
    assert parts["experts", "nf4"].parameters == n_experts
    # the rest by hand: embeddings and head; attention and shared expert of each layer
    others = 2 * 202048 * 5120 * 2 + parts["vision tower", "bfloat16"].bytes + parts["projector", "bfloat16"].bytes
    n_linear = 48 * (2 * 5120 * 5120 + 2 * 5120 * 1024 + 3 * 5120 * 8192)
    assert plan.naive_frozen / GIB == pytest.approx((2 * n_experts + 0.516 * n_linear + others) / GIB, rel=1e-3)
    assert plan.naive_frozen / GIB == pytest.approx(190, abs=0.5)
    assert plan.frozen / GIB == pytest.approx(56, abs=0.5)
    assert plan.frozen < plan.peak < 80 * GIB < plan.naive_peak


class Kept:
    """What autograd keeps from forward to backward pass, weights aside."""

    def __init__(self, weights: set[int]) -> None:
        self.weights = weights
        self.storages: dict[int, int] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor


def bytes_kept(skeleton: Skeleton, spec: ModelSpec, rows: int) -> int:
    """Run a real decoder over full rows and add up what it keeps for the backward pass."""
    hidden = skeleton.config.get_text_config().hidden_size
    n = spec.pack_tokens
    states = torch.randn(rows, n, hidden).requires_grad_()
    mask: Any = torch.zeros(rows, 1, n, n)
    if skeleton.config.model_type == "llama4":
        mask = dict.fromkeys(("full_attention", "chunked_attention"), mask)
    kept = Kept({parameter.untyped_storage().data_ptr() for parameter in skeleton.detector.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        positions = torch.arange(n).expand(rows, n)
        skeleton.decoder(inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False)
    return sum(kept.storages.values())


def loaded_skeleton(spec: ModelSpec) -> Skeleton:
    """Return a detector with memory in the place of one without."""
    skeleton = build_skeleton(spec, n_types=len(TAXONOMY))
    detector, _ = build_detector(spec, TAXONOMY)
    family = family_of(skeleton.config.model_type)
    assert family.decoder is not None
    model = detector.backbone if spec.lora is None else detector.backbone.get_base_model()
    return replace(skeleton, detector=detector.train(), decoder=model.get_submodule(family.decoder))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_what_autograd_keeps(make_spec: MakeSpec, attention, dropout):
    spec = make_spec(attention=attention, lora=adapters("language", dropout=dropout), pack_tokens=256)
    skeleton = loaded_skeleton(spec)
    estimate = estimate_activations(skeleton, spec, PassSize(tokens=512, is_mixed=False)).kept
    assert 0.75 < estimate / bytes_kept(skeleton, spec, rows=2) < 1.35


def test_adapted_experts_keep_their_sums(make_llama4_spec: MakeSpec):
    spec = make_llama4_spec(lora=adapters("language", "experts"), pack_tokens=256)
    skeleton = loaded_skeleton(spec)
    estimate = estimate_activations(skeleton, spec, PassSize(tokens=512, is_mixed=False)).kept
    assert 0.75 < estimate / bytes_kept(skeleton, spec, rows=2) < 1.35


def test_gradient_checkpointing_keeps_one_layer_and_the_states_between(make_llava_spec: MakeSpec):
    skeleton = build_skeleton(make_llava_spec(pack_tokens=256), n_types=2)
    size = PassSize(tokens=512, is_mixed=False)
    plain, saving = (
        estimate_activations(skeleton, make_llava_spec(pack_tokens=256, gradient_checkpointing=on), size)
        for on in (False, True)
    )
    mask = 2 * 256 * 256 * 4
    assert plain.kept - mask == 2 * plain.gradients  # two layers
    assert saving.kept - mask == plain.gradients + 3 * 2 * 256 * 64 * 4  # one layer, and states around two


def test_heads_alone_keep_nothing_of_the_backbone(make_llava_spec: MakeSpec):
    plain, frozen = (
        make_plan(make_llava_spec(**changes), PassSize(tokens=512, is_mixed=False)) for changes in ({}, {"lora": None})
    )
    assert frozen.activations.gradients == 0
    assert plain.activations.gradients < frozen.activations.kept < plain.activations.kept  # a layer of two, the mask
    assert frozen.trained == sum(part.bytes for part in frozen.weights if part.component == "heads")


def test_a_plan_that_does_not_fit_is_refused_with_keys_that_make_it_fit(make_llama4_spec: MakeSpec):
    spec = make_llama4_spec(lora=adapters("language", "experts", r=8))
    size = PassSize(tokens=4096, is_mixed=True)
    plan = make_plan(spec, size)
    require_room(spec, size, plan, [Device(name="box", free=plan.peak, total=plan.peak)])
    small = Device(name="box", free=plan.peak // 2, total=plan.peak)
    with pytest.raises(
        ModelError, match=r"box has .* free; it fits \(.*\) with: trainer.tokens_per_pass=1024"
    ) as caught:
        require_room(spec, size, plan, [small])
    named = re.search(r"with: (.*);", str(caught.value))
    assert named is not None
    remedies = find_remedies(spec, size, plan)
    savings = [remedy.saves for remedy in remedies]
    assert savings == sorted(savings, reverse=True)
    assert min(savings) > 0
    keys, smaller = combine_remedies(spec, size, plan, remedies, free=small.free)
    assert named[1].split() == keys
    assert smaller is not None
    assert smaller.peak <= small.free


def test_a_plan_that_nothing_makes_fit_says_so(make_llama4_spec: MakeSpec):
    spec = make_llama4_spec()
    plan = make_plan(spec, ONE_ROW)
    with pytest.raises(ModelError, match=r"is not enough: take a smaller model or a larger device"):
        require_room(spec, ONE_ROW, plan, [Device(name="box", free=1000, total=1000)])


def test_only_keys_that_change_something_are_named(make_llama4_spec: MakeSpec):
    spec = make_llama4_spec(dtype="bfloat16", attention="sdpa", quantize="nf4", gradient_checkpointing=True, lora=None)
    keys = [remedy.key for remedy in find_remedies(spec, ONE_ROW, make_plan(spec, ONE_ROW))]
    assert keys == ["model.pack_tokens=512"]


def test_lora_targets_are_checked_without_weights(make_llava_spec: MakeSpec):
    spec = make_llava_spec(backbone=SCOUT, lora=adapters("q_proj"))
    with pytest.raises(ModelError, match=r"'q_proj' matches no linear layer.*language_model\.model\.layers\.#"):
        build_skeleton(spec, n_types=2)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("nobody/nothing", "no folder, and as a hub id cannot be read.*download the hub id once"),
        ("builtin:llama5", "'builtin:llama5' is not built in; what is: builtin:shapes, builtin:llama4-tiny"),
    ],
)
def test_a_configuration_that_is_nowhere_is_an_error(make_llava_spec: MakeSpec, monkeypatch, backbone, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=message):
        build_skeleton(make_llava_spec(backbone=backbone), n_types=2)


def test_a_text_model_is_an_error(make_llava_spec: MakeSpec, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')
    with pytest.raises(ModelError, match="AutoModelForImageTextToText does not know"):
        build_skeleton(make_llava_spec(backbone=str(tmp_path)), n_types=2)


def test_a_pass_is_as_large_as_memory_allows(make_llava_spec: MakeSpec):
    spec, whole = make_llava_spec(), PassSize(tokens=8192, is_mixed=False)
    peak = make_plan(spec, whole).peak
    assert shrink_to_fit(spec, whole, free=None) == whole
    assert shrink_to_fit(spec, whole, free=2 * peak) == whole
    smaller = shrink_to_fit(spec, whole, free=peak // 2)
    assert 64 < smaller.tokens < whole.tokens
    assert make_plan(spec, smaller).peak <= 0.9 * (peak // 2)
    assert make_plan(spec, replace(smaller, tokens=smaller.tokens + 64)).peak > 0.9 * (peak // 2)
    assert shrink_to_fit(spec, whole, free=1).tokens == 64
