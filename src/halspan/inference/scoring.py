"""What a detector says about captions, before anything is calibrated or decided, one caption at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from numpy import ndarray
from PIL.Image import Image

from halspan.core.captions import Caption
from halspan.core.cost import Cost
from halspan.core.errors import ModelError
from halspan.core.losses import Logits
from halspan.data.rows import Row
from halspan.models.batch import Batch
from halspan.models.detector import SpanDetector
from halspan.models.encoding import RowEncoder

ReadImage = Callable[[Path], Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionScores:
    """What a detector says about one caption.

    Attributes:
        caption: the caption.
        offsets: characters `[start, end)` of each token in the caption's text.
        token_logit: logit of P(hallucinated) of each token, not calibrated.
        p_type: probability of each type of the taxonomy, given that the token is hallucinated.
        sentence_logit: logit of P(incorrect) of each sentence, not calibrated; None where it is unscored.
        unscored: why a sentence has no logit; None where it has one.
    """

    caption: Caption
    offsets: Int[ndarray, "token 2"]
    token_logit: Float[ndarray, "token"]
    p_type: Float32[ndarray, "token type"]
    sentence_logit: tuple[float | None, ...]
    unscored: tuple[str | None, ...]


def score(
    detector: SpanDetector,
    encoder: RowEncoder,
    rows: Sequence[Row],
    *,
    read_image: ReadImage,
    rows_per_pass: int,
    autocast: torch.dtype | None = None,
    on_pass: Callable[[Cost], None] | None = None,
) -> Iterator[CaptionScores]:
    """Score captions on the detector's device, in the order of the rows.

    Args:
        detector: the detector; it is put in evaluation mode.
        encoder: its encoder.
        rows: images with their captions.
        read_image: gives the RGB image behind a row's path.
        rows_per_pass: rows of one forward pass.
        autocast: lower precision of the forward pass; None keeps the weights' own.
        on_pass: is told what each forward pass cost.

    Raises:
        DataError: an image cannot be read.
        ModelError: the detector gives scores that are not finite numbers.
    """
    detector.eval()
    device = next(detector.parameters()).device
    for start in range(0, len(rows), rows_per_pass):
        part = rows[start : start + rows_per_pass]
        encoded = [encoder.encode(read_image(row.image), row.captions, targets=False) for row in part]
        batch = encoder.collate(encoded).to(device)
        if on_pass is not None:
            on_pass(batch.cost)
        yield from score_batch(detector, batch, autocast=autocast)


def score_batch(
    detector: SpanDetector, batch: Batch, *, autocast: torch.dtype | None = None
) -> Iterator[CaptionScores]:
    """Score a batch in one forward pass.

    Args:
        detector: in evaluation mode.
        batch: on its device.
        autocast: lower precision of the forward pass; None keeps the weights' own.

    Raises:
        ModelError: the detector gives scores that are not finite numbers.
    """
    device = batch.segments.device.type
    precision = nullcontext() if autocast is None else torch.autocast(device, dtype=autocast)
    with torch.inference_mode(), precision:
        logits = detector(batch)
    _check_finite(logits, batch)
    return _by_caption(batch, logits)


def _check_finite(logits: Logits, batch: Batch) -> None:
    scored = [reason is None for reasons in batch.unscored for reason in reasons]
    sentence = logits.sentence[torch.tensor(scored, device=logits.sentence.device)]
    if not all(torch.isfinite(scores).all() for scores in (logits.token, logits.type, sentence)):
        raise ModelError(
            f"the detector gives scores that are not finite numbers, first for captions such as "
            f"{batch.captions[0].id!r}; its weights are damaged, or trainer.precision is too low for them"
        )


def _by_caption(batch: Batch, logits: Logits) -> Iterator[CaptionScores]:
    """Cut a batch's logits into captions."""
    token = np.split(logits.token.float().cpu().numpy(), np.cumsum(batch.tokens_per_caption))
    p_type = np.split(logits.type.float().softmax(dim=-1).cpu().numpy(), np.cumsum(batch.tokens_per_caption))
    sentence = np.split(logits.sentence.float().cpu().numpy(), np.cumsum(batch.sentences_per_caption))
    for number, (caption, unscored) in enumerate(zip(batch.captions, batch.unscored, strict=True)):
        yield CaptionScores(
            caption=caption,
            offsets=batch.offsets[number],
            token_logit=token[number],
            p_type=p_type[number],
            sentence_logit=tuple(
                float(logit) if reason is None else None
                for logit, reason in zip(sentence[number], unscored, strict=True)
            ),
            unscored=unscored,
        )
