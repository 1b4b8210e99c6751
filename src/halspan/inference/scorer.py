"""The one path from images and texts to scores, used by validation, evaluation, export and `Detector`.

Captions are scored in blocks (see `halspan.inference.blocks`). Texts that do not fit the backbone's window are read in
overlapping windows (see `halspan.inference.windows`). Forward passes are filled with lines of similar length, up to a
number of tokens. The backbone computes in the precision of its stored weights, whatever precision it was trained with.
In float32, other texts in the same pass change P(incorrect) only by rounding.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TypeVar

import torch

from halspan.core.ahead import prepare_ahead
from halspan.core.cost import Cost
from halspan.core.errors import HalspanError, ResourceError
from halspan.data.rows import Row
from halspan.inference.blocks import MOST_BYTES, Answered, Asked, Block, SharedRow, divide, in_order, share_rows
from halspan.inference.scores import CaptionScores, ReadImage
from halspan.inference.windows import EncodedTexts, encode_texts, score_texts
from halspan.models.detector import SpanDetector
from halspan.models.folder.record import ScoringRecord
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import ModelSpec

Source = TypeVar("Source")
_Encoded = tuple[SharedRow, EncodedTexts | HalspanError]


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

    def score_blocks(
        self,
        source: Iterable[Source],
        read: Callable[[Source], tuple[Block, Sequence[Asked]]],
        *,
        batch_tokens: int,
        is_failure_apart: bool = False,
        on_pass: Callable[[Cost], None] | None = None,
    ) -> Generator[Answered[Block, CaptionScores], None, None]:
        """Score blocks of captions, part by part; captions of one image share a row, wherever they stand in a block.

        While the model computes a part, a thread reads, decodes and encodes the next one. Encoded images of at most two
        parts are in memory, of `MOST_BYTES` each, or of a forward pass where that is more. Scores depend on the other
        captions of the block only by rounding, and not on other blocks.

        Args:
            source: What blocks are read from; it is advanced in the caller's thread.
            read: Function that reads a block, and returns it with its captions; it is called in another thread.
            batch_tokens: Most tokens of one forward pass, padding and images included; a longer line has a pass of its
                own.
            is_failure_apart: Whether scores that are not finite numbers are an error in the place of these scores.
            on_pass: Function that is called with the cost of each forward pass.

        Returns:
            Generator of scores. An image that cannot be read, or leaves no room for captions, is an error in the places
            of its captions.

        Raises:
            ModelError: Scores are not finite numbers.
        """

        def is_full(made: Sequence[_Encoded]) -> bool:
            texts = [texts for _, texts in made if isinstance(texts, EncodedTexts)]
            has_pass = sum(one.n_tokens for one in texts) >= batch_tokens
            return has_pass and sum(one.n_bytes for one in texts) >= MOST_BYTES

        def open_block(item: Source) -> tuple[Block, list[Callable[[], _Encoded]]]:
            block, asked = read(item)
            return block, [partial(self._encode, row) for row in share_rows(asked)]

        self.detector.eval()
        with closing(prepare_ahead(source, open_block, is_full=is_full)) as parts:
            for part in parts:
                results = self._score_part(part.made, batch_tokens, is_failure_apart, on_pass)
                yield Answered(part.block, results, part.is_last)

    def _encode(self, row: SharedRow) -> _Encoded:
        try:
            is_causal = self.spec.context == "causal"
            return row, encode_texts(self.encoder, row.load_image(), row.captions, is_causal=is_causal)
        except ResourceError:  # of a store that does not answer; the captions can be scored when it does
            raise
        except HalspanError as error:
            return row, error.with_traceback(None)  # which would keep the image

    def _score_part(
        self,
        made: Sequence[_Encoded],
        batch_tokens: int,
        is_failure_apart: bool,
        on_pass: Callable[[Cost], None] | None,
    ) -> dict[int, CaptionScores | HalspanError]:
        results: dict[int, CaptionScores | HalspanError] = {}
        texts: list[EncodedTexts] = []
        places: list[int] = []
        for row, encoded in made:
            if isinstance(encoded, EncodedTexts):
                texts.append(encoded)
                places += row.places
            else:
                results |= dict.fromkeys(row.places, encoded)
        scored = score_texts(
            self.detector,
            self.encoder,
            texts,
            batch_tokens=batch_tokens,
            is_failure_apart=is_failure_apart,
            on_pass=on_pass,
        )
        return results | dict(zip(places, scored, strict=True))

    def score_rows(
        self,
        rows: Iterable[Row],
        *,
        read_image: ReadImage,
        batch_tokens: int,
        are_images_shared: bool = False,
        on_pass: Callable[[Cost], None] | None = None,
    ) -> Iterator[CaptionScores]:
        """Score the captions of rows, in their order.

        Args:
            rows: Images with their captions; about two blocks of 256 captions are read ahead.
            read_image: Function that returns the RGB image of a row; it is called in another thread.
            batch_tokens: As for `score_blocks`.
            are_images_shared: Whether rows of one image in a block become one.
            on_pass: As for `score_blocks`.

        Raises:
            DataError: An image cannot be read; all captions before it have been scored.
            ModelError: An image leaves no room for captions, or scores are not finite numbers.
        """

        def read(block: list[Row]) -> tuple[None, list[Asked]]:
            keys = [row.image if are_images_shared else number for number, row in enumerate(block)]
            return None, [
                Asked(caption, key, partial(read_image, row.image))
                for key, row in zip(keys, block, strict=True)
                for caption in row.captions
            ]

        blocks = divide(rows, lambda row: (len(row.captions), 0))
        parts = self.score_blocks(blocks, read, batch_tokens=batch_tokens, on_pass=on_pass)
        with closing(in_order(parts)) as results:
            for result in results:
                if isinstance(result, HalspanError):
                    raise result
                yield result
