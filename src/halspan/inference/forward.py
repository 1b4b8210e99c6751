"""One forward pass: the logits of a batch, split by caption."""

from collections.abc import Iterator

import numpy as np
import torch

from halspan.core.errors import ModelError
from halspan.core.losses import Logits
from halspan.inference.scores import CaptionScores
from halspan.models.detector import SpanDetector
from halspan.models.inputs.batch import Batch


def score_batch(detector: SpanDetector, batch: Batch) -> Iterator[CaptionScores]:
    """Score a batch in one forward pass, in the precision of the detector's weights.

    Args:
        detector: Detector in evaluation mode.
        batch: Batch on its device.

    Raises:
        ModelError: Scores are not finite numbers.
    """
    with torch.inference_mode():
        logits = detector(batch)
    _check_finite(logits, batch)
    return _by_caption(batch, logits)


def _check_finite(logits: Logits, batch: Batch) -> None:
    scored = [reason is None for reasons in batch.unscored for reason in reasons]
    sentence = logits.sentence[torch.tensor(scored, device=logits.sentence.device)]
    if not all(torch.isfinite(scores).all() for scores in (logits.token, logits.type, sentence)):
        raise ModelError(
            f"the detector gives scores that are not finite numbers, first for captions such as "
            f"{batch.captions[0].id!r}; its weights are damaged, or their precision is too low"
        )


def _by_caption(batch: Batch, logits: Logits) -> Iterator[CaptionScores]:
    """Split a batch's logits by caption."""
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
