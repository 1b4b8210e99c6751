"""Backbones of which only the lower layers are loaded: the states are those of the whole model at that layer."""

import pytest
import torch
from torch import Tensor

from halspan.core.errors import ModelError
from halspan.models.backbones.depth import cut_checkpoint
from halspan.models.backbones.loading import load_backbone
from halspan.models.detector import SpanDetector
from halspan.models.inputs.encoding import Batch
from halspan.models.model_spec import CONTEXTS
from halspan.models.plan.memory import PassSize, make_plan
from halspan.testing.tiny_detectors import CAPTIONS, build, encode
from halspan.testing.tiny_families import PROMPTS
from halspan.testing.tiny_models import MakeSpec

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def states_after(detector: SpanDetector, batch: Batch, layer: int) -> Tensor:
    """Give the states that the layer above a layer gets to see, after the final norm."""
    seen: list[Tensor] = []
    decoder = detector.decoder
    hook = decoder.layers[layer].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    detector.states(batch)
    hook.remove()
    return decoder.norm(seen[0])[batch.token_row, batch.token_position]


def backward(detector: SpanDetector, states: Tensor) -> dict[str, Tensor]:
    """Return the gradients of adapters for a sum of states in which each number has its own sign and weight."""
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    (states * weights).sum().backward()
    return {path: p.grad for path, p in detector.named_parameters() if p.grad is not None and "lora_" in path}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", PROMPTS)
def test_states_and_gradients_of_a_layer_are_those_of_the_whole_model_in_all_families(name, context):
    whole, encoder = build(name, context=context)
    if name == "mllama":  # its first layer sees no image
        with pytest.raises(ModelError, match=r"model\.read_layer: 1, but layer 2 is the first to see the image"):
            build(name, context=context, read_layer=1)
        return
    cut, _ = build(name, context=context, read_layer=1)
    own = dict(whole.named_parameters())
    with torch.no_grad():
        for path, parameter in cut.named_parameters():
            if "lora_" in path:
                parameter.copy_(own[path])
    batch = encode(encoder, CAPTIONS, CAPTIONS[:1])
    assert len(cut.decoder.layers) == 1
    actual, expected = cut.states(batch), states_after(whole, batch, 1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    of_cut, of_whole = backward(cut, actual), backward(whole, expected)
    assert of_cut
    assert of_cut.keys() == of_whole.keys()
    for path, gradient in of_whole.items():
        assert gradient.abs().max() > 0, path
        assert (of_cut[path] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), path


def test_more_layers_than_there_are_cannot_be_read(make_llava_spec: MakeSpec):
    with pytest.raises(ModelError, match=r"model\.read_layer: 3, but the text decoder has 2 layers; give 1 to 2"):
        load_backbone(make_llava_spec(read_layer=3))


def test_the_plan_counts_what_is_loaded(make_spec: MakeSpec):
    size = PassSize(tokens=512, is_mixed=False)
    whole, cut = (make_plan(make_spec(read_layer=layers), size) for layers in (None, 1))
    loaded = load_backbone(make_spec(read_layer=1)).model
    assert cut.frozen == sum(tensor.nbytes for tensor in (*loaded.parameters(), *loaded.buffers()))
    assert cut.frozen < whole.frozen
    assert cut.activations.kept < whole.activations.kept
    assert make_plan(make_spec(read_layer=1), size, like=whole).frozen == cut.frozen


def test_vision_layers_stay():
    names = [
        "model.language_model.layers.2.mlp.weight",
        "model.vision_tower.encoder.layers.2.mlp.weight",
        "lm_head.weight",
    ]
    assert list(cut_checkpoint(dict.fromkeys(names), 2)) == names[1:]
    assert list(cut_checkpoint(dict.fromkeys(names), 3)) == names
