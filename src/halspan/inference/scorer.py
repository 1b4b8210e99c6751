"""The one path from images and texts to scores, used by validation, evaluation, export and `Detector`.

Texts that do not fit the backbone's window are read in overlapping windows (see `halspan.inference.windows`). Forward
passes are filled up to a number of tokens. The backbone computes in the precision of its stored weights, whatever
precision it was trained with. In float32, other texts in the same pass change P(incorrect) only by rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from PIL.Image import Image

from halspan.core.captions import Caption
from halspan.core.cost import Cost
from halspan.data.rows import Row
from halspan.inference.scores import CaptionScores, ReadImage
from halspan.inference.windows import Refuse, score_texts
from halspan.models.detector import SpanDetector
from halspan.models.folder.record import ScoringRecord
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import ModelSpec


class Scorer:
    """Scores texts of any length about images with a detector.

    Args:
        detector: The detector; it is switched to evaluation mode, and in float32 its adapters are merged.
        encoder: Its encoder.
        spec: Spec that it was built from.
    """

    def __init__(self, detector: SpanDetector, encoder: RowEncoder, spec: ModelSpec) -> None:
        self.detector = detector.eval()
        self.encoder = encoder
        self.spec = spec
        if spec.dtype == "float32" and spec.quantize is None:  # otherwise rounding would matter
            detector.merge_adapters()

    @property
    def device(self) -> torch.device:
        """Return the device of the detector."""
        return next(self.detector.parameters()).device

    @property
    def scoring(self) -> ScoringRecord:
        """Return how it scores, to be stored with the figures that are measured so."""
        return ScoringRecord(dtype=self.spec.dtype, window="overlapping")

    def score_images(
        self,
        rows: Iterable[tuple[Image, Sequence[Caption]]],
        *,
        batch_tokens: int,
        on_refused: Refuse | None = None,
        on_pass: Callable[[Cost], None] | None = None,
    ) -> Iterator[CaptionScores]:
        """Score captions in order; no more rows are read ahead than one forward pass needs.

        Args:
            rows: Images, each with captions of it.
            batch_tokens: Most tokens of one forward pass, padding and images included; a longer line has a pass of its
                own.
            on_refused: Function that is called with captions that cannot be scored, and the reason; None raises an
                error.
            on_pass: Function that is called with the cost of each forward pass.

        Raises:
            ModelError: The prompt alone does not fit the window, or scores are not finite numbers.
        """
        self.detector.eval()
        return score_texts(
            self.detector,
            self.encoder,
            rows,
            is_causal=self.spec.context == "causal",
            batch_tokens=batch_tokens,
            on_refused=on_refused,
            on_pass=on_pass,
        )

    def score_rows(
        self,
        rows: Iterable[Row],
        *,
        read_image: ReadImage,
        batch_tokens: int,
        on_pass: Callable[[Cost], None] | None = None,
    ) -> Iterator[CaptionScores]:
        """Score the captions of rows, whose images are read on demand; otherwise like `score_images`.

        Raises:
            DataError: An image cannot be read.
        """
        images = ((read_image(row.image), row.captions) for row in rows)
        return self.score_images(images, batch_tokens=batch_tokens, on_pass=on_pass)
