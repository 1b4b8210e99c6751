"""Passes of bounded tokens: states and gradients of a step are those of one caption a row, all in one pass."""

from collections.abc import Sequence
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from halspan.core.captions import Span
from halspan.core.loss_weights import LossWeights
from halspan.models.detector import SpanDetector
from halspan.models.inputs.batch import Batch
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import CONTEXTS, LoraSpec
from halspan.testing.tiny_detectors import SIZES, build
from halspan.testing.tiny_families import PROMPTS
from halspan.testing.tiny_models import make_caption, make_image
from halspan.training.module import DetectorModule

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPLIT = [  # of one image: the longest caption fills a pass of its own, the others share another line
    make_caption("A red cat sat on a mat. It ran to the door and out of it.", label="incorrect", spans=(Span(2, 5),)),
    make_caption("A dog sits there.", label="correct"),
    make_caption("It is blue.", label="incorrect", spans=(Span(6, 10, "Attribute"),)),
]
ROWS = (SPLIT, [make_caption("A bird flies. It sings.", label="correct")], [make_caption("Two men.", label="correct")])
IMAGES = [make_image(n, width=width, height=height) for n, (width, height) in enumerate(SIZES)]
EVERY_LAYER = {"lora": LoraSpec(r=2, alpha=4, dropout=0.0, targets=["language"])}
DEPTHS: dict[str, dict[str, Any]] = {
    "every layer": EVERY_LAYER,
    "adapters on the upper layer": {"lora": LoraSpec(r=2, alpha=4, dropout=0.0, targets=["language"], layers=1)},
    "the lower layer read": EVERY_LAYER | {"read_layer": 1},
}


def one_caption_a_row(encoder: RowEncoder) -> Batch:
    """Lay the captions out without sharing anything, in one pass."""
    alone = [encoder.encode(image, [caption]) for image, row in zip(IMAGES, ROWS, strict=True) for caption in row]
    return encoder.collate(alone)


def bounded(encoder: RowEncoder) -> tuple[Batch, ...]:
    """Divide the rows into passes that the longest caption just fits, and check that they are what is to be tested."""
    limit = one_caption_a_row(encoder).segments.shape[1]
    rows = [encoder.encode(image, row) for image, row in zip(IMAGES, ROWS, strict=True)]
    passes = encoder.passes(rows, tokens=limit)
    lines = sum(len(each.segments) for each in passes)
    assert len(passes) > 1
    assert max(each.size for each in passes) <= limit
    assert len(ROWS) < lines < sum(map(len, ROWS)), "a row is split, and captions share a line"
    return passes


def states(detector: SpanDetector, passes: Sequence[Batch]) -> dict[str, Tensor]:
    """Return the states of each caption."""
    with torch.no_grad():
        of_passes = [detector.states(batch).split(batch.tokens_per_caption) for batch in passes]
    captions = [caption.id for batch in passes for caption in batch.captions]
    return dict(zip(captions, (state for of_pass in of_passes for state in of_pass), strict=True))


def step_of(module: DetectorModule, passes: Sequence[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradients of one step, as training accumulates them."""
    loss = module._accumulate(passes, module._count_globally(passes))
    return loss, {path: p.grad.clone() for path, p in module.named_parameters() if p.grad is not None}


def in_training(detector: SpanDetector) -> DetectorModule:
    module = DetectorModule(detector.train(), optimizer=None, loss=LossWeights(), total_steps=1, seed=0)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    module.trainer = trainer
    return module


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", PROMPTS)
def test_a_step_in_bounded_passes_is_one_pass_of_one_caption_a_row_in_all_families(name, context, depth):
    if name == "mllama" and "read_layer" in DEPTHS[depth]:
        pytest.skip("its first layer sees no image, so reading it is refused (test_depth.py)")
    detector, encoder = build(name, context=context, **DEPTHS[depth])
    plain, passes = one_caption_a_row(encoder), bounded(encoder)
    expected, actual = states(detector, [plain]), states(detector, passes)
    assert expected.keys() == actual.keys()
    for caption, state in expected.items():
        assert (actual[caption] - state).abs().max() <= 1e-4 * state.abs().max(), caption
    module = in_training(detector)
    (whole, of_whole), (loss, of_passes) = step_of(module, [plain]), step_of(module, passes)
    assert loss == pytest.approx(float(whole), rel=1e-5)
    assert any("lora_" in path for path in of_whole)
    assert of_whole.keys() == of_passes.keys()
    for path, gradient in of_whole.items():
        if path.endswith("sentence_head.attention.bias"):
            continue  # a softmax ignores a shift, so that its gradient is rounding alone
        assert gradient.abs().max() > 0, path
        assert (of_passes[path] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), path
