import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from halspan.models.detector import SpanDetector
from halspan.models.inputs import parts
from halspan.models.inputs.batch import Batch
from halspan.models.model_spec import CONTEXTS
from halspan.testing.tiny_detectors import CAPTIONS, build, encode
from halspan.testing.tiny_families import PROMPTS

# paligemma's image processor, with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CALL = "halspan.models.inputs.parts._CALL"
NEVER, ALWAYS = 10**9, -(10**9)  # pairs that a call is worth


def states_and_gradients(detector: SpanDetector, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    detector.zero_grad()
    states = detector.states(batch)
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    trained = {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}
    return states.detach(), trained


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", PROMPTS)
def test_parts_give_the_states_and_gradients_of_whole_rows(monkeypatch, name, context):
    is_checkpointed = context == "echo"  # layers that run again find the parts, too
    detector, encoder = build(name, context=context, attention="sdpa", gradient_checkpointing=is_checkpointed)
    detector.train()
    batch = encode(encoder, CAPTIONS, CAPTIONS[:1])  # with padding
    monkeypatch.setattr(CALL, NEVER)
    whole, whole_gradients = states_and_gradients(detector, batch)
    monkeypatch.setattr(CALL, ALWAYS)
    apart, gradients = states_and_gradients(detector, batch)
    assert (apart - whole).abs().max() <= 1e-4 * whole.abs().max()
    assert gradients.keys() == whole_gradients.keys()
    for path, gradient in gradients.items():
        assert (gradient - whole_gradients[path]).abs().max() <= 1e-4 * whole_gradients[path].abs().max() + 1e-7, path


def count_operations(detector: SpanDetector, batch: Batch) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        detector.states(batch)  # the kernel that torch counts
    return counter.get_total_flops()


def test_parts_leave_out_pairs_of_two_captions_and_of_the_prompt_with_a_caption(monkeypatch):
    detector, encoder = build("llava", attention="sdpa")
    batch = encode(encoder, CAPTIONS)
    prompt, lengths = 21, [len(offsets) for offsets in batch.offsets]
    assert batch.size == prompt + sum(lengths)
    monkeypatch.setattr(CALL, NEVER)
    whole = count_operations(detector, batch)
    monkeypatch.setattr(CALL, ALWAYS)
    pairs = prompt**2 + sum(length * (prompt + length) for length in lengths)
    # 2 layers, 4 operations for each of 64 numbers of a pair
    assert whole - count_operations(detector, batch) == 2 * 4 * 64 * (batch.size**2 - pairs)


def test_short_rows_stay_whole():
    segments = torch.tensor([[-1] * 9 + [0] * 20 + [1] * 20])
    mask = torch.zeros(1, 1, 49, 49)
    parts.mark_parts([mask], segments)
    assert not hasattr(mask, "halspan_parts")


def test_short_captions_are_computed_together_in_training():
    segments = torch.tensor([[-1] * 400 + [0] * 60 + [1] * 30 + [2] * 20 + [3] * 100 + [4] * 99 + [-2] * 5])
    mask = torch.zeros(1, 1, 714, 714)
    parts.mark_parts([mask], segments)  # up to 100 tokens, a quarter of the prompt
    assert mask.halspan_parts == [parts.RowParts(400, ((400, 510), (510, 610), (610, 709)))]
    with torch.no_grad():
        parts.mark_parts([mask], segments)
    assert mask.halspan_parts == [parts.RowParts(400, ((400, 460), (460, 490), (490, 510), (510, 610), (610, 709)))]
