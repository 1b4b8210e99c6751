"""`trainer.compile`: layers are compiled inside the block only, and keep the names of their weights."""

import pytest
import torch
from torch._dynamo.utils import counters

from halspan.models.compiling import compiled
from halspan.testing.tiny_detectors import CAPTIONS, build, encode

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method`:DeprecationWarning"
)  # torch's compiler itself


def test_layers_keep_their_names_and_run_as_they_are_after_the_block():
    detector, encoder = build("llava", attention="sdpa")
    batch = encode(encoder, CAPTIONS)
    names = list(detector.trainable_state_dict())
    assert len(detector.decoder_layers) == 2
    with compiled(detector.decoder_layers):
        assert list(detector.trainable_state_dict()) == names
        assert all(layer._compiled_call_impl is not None for layer in detector.decoder_layers)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = detector.states(batch)
    counters.clear()
    with torch.no_grad():
        assert torch.equal(detector.states(batch), expected)
    assert not counters["frames"], "something was compiled"


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients():
    gradients = []
    for is_compiled in (False, True):
        detector, encoder = build("gemma3", attention="sdpa", gradient_checkpointing=True)
        with compiled(detector.decoder_layers if is_compiled else ()):
            for rows in ([CAPTIONS], [CAPTIONS, CAPTIONS[:1]], [CAPTIONS[:2]]):
                detector.states(encode(encoder, *rows)).square().mean().backward()
        gradients.append({name: p.grad for name, p in detector.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)
