"""Features in place of pixels: the same states and gradients in every family, and no vision tower runs."""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from halspan.core.captions import Span
from halspan.core.loss_weights import LossWeights
from halspan.core.losses import combine, loss_terms
from halspan.models.detector import SpanDetector
from halspan.models.inputs.encoding import Batch, EncodedRow, RowEncoder
from halspan.models.kept.features import Features
from halspan.testing.tiny_detectors import SIZES, build
from halspan.testing.tiny_families import PROMPTS
from halspan.testing.tiny_models import make_caption, make_image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
families = pytest.mark.parametrize("name", PROMPTS)

MARKED = make_caption("A red cat sat.", label="incorrect", spans=(Span(2, 5, "Attribute"),))
ROWS = ([MARKED, make_caption("A dog sits. It sleeps.", label="correct")], [make_caption("A bird.", label="correct")])


def with_pixels(encoder: RowEncoder) -> list[EncodedRow]:
    """Encode rows with images of different sizes, whose features are to be kept."""
    images = [make_image(n, width=SIZES[n][0], height=SIZES[n][1]) for n in range(len(ROWS))]
    encoded = [encoder.encode(image, row) for image, row in zip(images, ROWS, strict=True)]
    return [replace(row, entry=f"row {number}") for number, row in enumerate(encoded)]


def entries(detector: SpanDetector, encoder: RowEncoder) -> list[Features]:
    """Give the entries of the rows, as one pass shows them."""
    found: list[Features] = []

    def take(drafts, features) -> None:
        for draft, own in zip(drafts, features, strict=True):
            parts = {name: torch.from_numpy(part) for name, part in draft.parts.items()}
            found.append(parts | {f"features.{name}": tensor for name, tensor in own.items()})

    detector.on_features = take
    with torch.no_grad():
        detector.states(encoder.collate(with_pixels(encoder)))
    detector.on_features = None
    return found


def kept_batch(detector: SpanDetector, encoder: RowEncoder) -> Batch:
    kept = entries(detector, encoder)
    return encoder.collate([encoder.encode_kept(entry, row) for entry, row in zip(kept, ROWS, strict=True)])


def gradients(detector: SpanDetector, batch: Batch) -> dict[str, Tensor]:
    assert batch.targets is not None
    detector.zero_grad()
    weights = LossWeights()
    combine(loss_terms(detector(batch), batch.targets, weights), weights).backward()
    return {path: p.grad.clone() for path, p in detector.named_parameters() if p.grad is not None}


def assert_close(ours: Tensor, theirs: Tensor, note: str) -> None:
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max().clamp(min=1e-6), note


@families
def test_kept_features_give_the_same_states_and_gradients_in_all_families(name):
    for context in ("causal", "echo", "bidirectional", "bidirectional_sentence"):
        detector, encoder = build(name, context=context)
        plain, kept = encoder.collate(with_pixels(encoder)), kept_batch(detector, encoder)
        assert not any("pixel" in path for path in kept.inputs)
        assert_close(detector.states(kept), detector.states(plain), context)
        expected, actual = gradients(detector, plain), gradients(detector, kept)
        assert expected.keys() == actual.keys()
        for path in expected:
            assert_close(actual[path], expected[path], f"{context} {path}")


def test_rows_with_features_and_rows_with_pixels_go_into_separate_passes():
    detector, encoder = build("llava")
    kept, pixels = entries(detector, encoder), with_pixels(encoder)
    rows = [pixels[0], encoder.encode_kept(kept[1], ROWS[1]), pixels[1], encoder.encode_kept(kept[0], ROWS[0])]
    first, second = encoder.passes(rows, tokens=4096)
    assert [len(part.segments) for part in (first, second)] == [2, 2]
    assert (first.features, second.drafts) == ({}, ())
    assert [draft.name for draft in first.drafts] == ["row 0", "row 1"]
    assert "pixel_values" in first.inputs
    assert "pixel_values" not in second.inputs
    assert [caption.id for caption in second.captions] == [caption.id for row in (ROWS[1], ROWS[0]) for caption in row]


@families
def test_with_kept_features_neither_vision_tower_nor_projector_runs_in_all_families(name):
    detector, encoder = build(name)
    kept, plain = kept_batch(detector, encoder), encoder.collate(with_pixels(encoder))
    ran: list[str] = []
    for path, module in detector.backbone.get_base_model().named_modules():
        if any(re.fullmatch(p, f"{path}.weight") for p in (detector.family.vision, detector.family.projector)):
            module.register_forward_hook(lambda *_, path=path: ran.append(path))
    detector.states(kept)
    assert ran == []
    detector.states(plain)
    assert ran
