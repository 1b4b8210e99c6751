"""Adapters on the upper layers only: no graph is built below them, and their gradients are as ever."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halspan.core.errors import ModelError
from halspan.core.loss_weights import LossWeights
from halspan.core.losses import combine, loss_terms
from halspan.models.backbones.families import find_decoder
from halspan.models.backbones.loading import load_backbone
from halspan.models.detector import SpanDetector
from halspan.models.inputs.encoding import Batch
from halspan.models.lora import find_targets
from halspan.models.model_spec import CONTEXTS, LoraSpec
from halspan.models.plan.memory import PassSize, make_plan
from halspan.testing.tiny_detectors import CAPTIONS, build, encode
from halspan.testing.tiny_families import PROMPTS
from halspan.testing.tiny_models import MakeSpec, make_caption

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def lora(*targets: str, **changes: Any) -> LoraSpec:
    return LoraSpec(**({"r": 2, "alpha": 4, "dropout": 0.0, "targets": list(targets) or ["language"]} | changes))


def gradients(detector: SpanDetector, batch: Batch) -> dict[str, Tensor]:
    assert batch.targets is not None
    weights = LossWeights()
    combine(loss_terms(detector.train()(batch), batch.targets, weights), weights).backward()
    return {path: p.grad for path, p in detector.named_parameters() if p.grad is not None}


def graphs(detector: SpanDetector) -> list[bool]:
    """Note for each layer of the decoder whether its output has a graph."""
    found: list[bool] = []
    for layer in find_decoder(detector.base_model, detector.family).layers:
        layer.register_forward_hook(lambda _, __, output: found.append(_first(output).requires_grad))
    return found


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


WAYS = [("causal", True), *((context, False) for context in CONTEXTS)]


@pytest.mark.parametrize(("context", "checkpointing"), WAYS)
@pytest.mark.parametrize("name", PROMPTS)
def test_below_the_first_adapted_layer_there_is_no_graph_in_all_families(name, context, checkpointing):
    ways = {"context": context, "gradient_checkpointing": checkpointing}
    whole, encoder = build(name, lora=lora(), **ways)
    upper, _ = build(name, lora=lora(layers=1), **ways)
    adapted = {path for path, p in upper.named_parameters() if p.requires_grad and "lora_" in path}
    assert adapted
    assert all(re.search(r"\.layers\.1\.", path) for path in adapted)
    with torch.no_grad():
        for path, parameter in whole.named_parameters():  # adapters below that do nothing, and the same ones above
            if "lora_B" in path and path not in adapted:
                nn.init.zeros_(parameter)
        own = dict(upper.named_parameters())
        for path, parameter in whole.named_parameters():
            if path in own:
                own[path].copy_(parameter)
    batch = encode(
        encoder,
        [make_caption("A red cat sat. It ran.", label="incorrect")],
        [make_caption("A dog sits.", label="correct")],
    )
    seen, of_whole = graphs(upper), graphs(whole)
    actual, expected = gradients(upper, batch), gradients(whole, batch)
    assert seen[:2] == [False, True]
    assert of_whole[:2] == [True, True]
    with torch.no_grad():
        difference = (upper.states(batch) - whole.states(batch)).abs().max()
        assert difference <= 1e-4 * whole.states(batch).abs().max()
    assert len(actual) < len(expected)
    for path, gradient in actual.items():
        difference = (gradient - expected[path]).abs().max()
        assert difference <= 1e-4 * expected[path].abs().max().clamp(min=1e-6), path


def test_layers_of_other_towers_are_adapted_all_the_same(make_llava_spec: MakeSpec):
    backbone = load_backbone(make_llava_spec())
    _, whole, _ = find_targets(backbone.model, backbone.family, ["language", "vision"])
    pattern, upper, _ = find_targets(backbone.model, backbone.family, ["language", "vision"], first=1)
    assert sorted(set(whole) - set(upper)) == [path for path in sorted(whole) if "language_model.layers.0." in path]
    assert [path for path in whole if re.fullmatch(pattern, path)] == upper


def test_experts_of_lower_layers_stay_frozen(make_llama4_spec: MakeSpec):
    backbone = load_backbone(make_llama4_spec())
    _, _, experts = find_targets(backbone.model, backbone.family, ["experts"], first=1)
    assert len(experts) == 2
    assert all(".layers.1." in path for path in experts)


def test_a_layer_that_there_is_not_is_an_error(make_llava_spec: MakeSpec):
    backbone = load_backbone(make_llava_spec())
    with pytest.raises(ModelError, match=r"model\.lora\.layers: 2, but model\.lora\.targets match nothing in layer 2"):
        find_targets(backbone.model, backbone.family, ["language"], first=2)


def test_the_plan_keeps_nothing_for_layers_without_a_graph(make_llava_spec: MakeSpec):
    size = PassSize(tokens=512, is_mixed=False)
    whole, upper = (make_plan(make_llava_spec(lora=lora(layers=layers)), size) for layers in (None, 1))
    both = make_plan(make_llava_spec(lora=lora("language", "vision", layers=1)), size)
    assert upper.activations.kept < 0.7 * whole.activations.kept  # of two layers, and a mask
    assert both.activations.kept > whole.activations.kept


def test_states_are_those_of_all_layers(make_llava_spec: MakeSpec):
    detector, encoder = build("llava", lora=lora(layers=1))
    plain, _ = build("llava", lora=None)
    batch = encode(encoder, CAPTIONS)
    assert (detector.states(batch) - plain.states(batch)).abs().max() > 1e-3  # the upper layer's adapters do something
