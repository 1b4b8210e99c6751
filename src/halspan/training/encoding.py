"""Rows as batches: images are read, captions tokenized, and both laid out in passes of bounded size."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from PIL import Image

from halspan.core.captions import Caption
from halspan.data.images import content_hash, read_size
from halspan.data.rows import Row
from halspan.models.inputs.batch import Batch, EncodedRow
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.kept.keeping import KEEPING, Lookup
from halspan.models.plan.floor import Operations, RowSize, count_floor, measure_row
from halspan.models.plan.skeleton import Skeleton, build_skeleton
from halspan.training.profiling import timed

_SAMPLE = 512  # rows whose captions are tokenized to estimate the length of all
_SIZES = ((64, 64), (640, 480), (300, 900))  # images by which it shows whether the prompt's length depends on the image
_GRAIN = 32  # pixels to which sides of images are rounded, so that few sizes have to be tried


class EncodeRows:
    """Encoder of rows of a corpus; an object, because spawned workers receive it pickled.

    Args:
        encoder: The detector's encoder.
        read_image: Function that reads the image of a row.
        kept: Features of images that are kept, which are looked up before an image is read; None for none.
    """

    def __init__(
        self, encoder: RowEncoder, read_image: Callable[[Path], Image.Image], kept: Lookup | None = None
    ) -> None:
        self._encoder = encoder
        self._read_image = read_image
        self._kept = kept

    def __call__(self, rows: Sequence[Row], *, tokens_per_pass: int) -> tuple[Batch, ...]:
        """Encode rows with targets, as batches of at most `tokens_per_pass` tokens, padding included."""
        start = time.perf_counter()
        encoded = [self._encode(row) for row in rows]
        seconds = time.perf_counter() - start
        with timed("encoding"):
            first, *others = self._encoder.passes(encoded, tokens=tokens_per_pass)
        return replace(first, image_seconds=seconds), *others

    def _encode(self, row: Row) -> EncodedRow:
        if self._kept is None or self._kept.mode != KEEPING:
            return self._encode_pixels(row)
        content = content_hash(row.image)
        if (entry := self._kept.read(content)) is not None:
            return self._encoder.encode_kept(entry, row.captions)
        encoded = self._encode_pixels(row)
        is_same = content_hash(row.image) == content  # the file may have been replaced before it was decoded
        return replace(encoded, entry=self._kept.name_of(content)) if is_same else encoded

    def _encode_pixels(self, row: Row) -> EncodedRow:
        with timed("reading images"):
            image = self._read_image(row.image)
        with timed("encoding"):
            return self._encoder.encode(image, row.captions)

    def count_floor(self, rows: Sequence[Row], *, kept: Collection[Caption]) -> Operations:
        """Count the fewest operations of a training step on rows; an image counts once, however many rows it has.

        Args:
            rows: Rows of the step.
            kept: Captions of images whose features were kept, so that these images take no operations.
        """
        skeleton = self._skeleton
        images: dict[Path, RowSize] = {}
        for row in rows:
            size = measure_row(skeleton, self._encode_pixels(row))
            size = replace(size, tiles=()) if row.captions[0] in kept else size
            before = images.get(row.image, replace(size, captions=()))
            images[row.image] = replace(before, captions=before.captions + size.captions)
        return count_floor(skeleton, images.values(), is_training=True)

    @cached_property
    def _skeleton(self) -> Skeleton:
        return build_skeleton(self._encoder.spec, n_types=len(self._encoder.taxonomy))

    def measure(self, rows: Sequence[Row]) -> list[int]:
        """Estimate the length of each row in tokens, from its characters and the size of its image.

        A sample is tokenized, and the headers of images are read where the prompt's length depends on their size.

        Raises:
            DataError: An image cannot be read.
            ModelError: The prompt alone does not fit the window.
        """
        characters = [sum(len(caption.text) for caption in row.captions) for row in rows]
        sample = range(0, len(rows), -(-len(rows) // _SAMPLE) or 1)
        texts = [caption.text for number in sample for caption in rows[number].captions]
        rate = self._encoder.count_tokens(texts) / max(1, sum(map(len, texts)))
        prompts = self._measure_prompts([row.image for row in rows])
        return [prompt + round(rate * length) for prompt, length in zip(prompts, characters, strict=True)]

    def _measure_prompts(self, images: Sequence[Path]) -> list[int]:
        known = {size: self._encoder.prompt_length(size) for size in _SIZES}
        if len(set(known.values())) == 1:
            return [known[_SIZES[0]]] * len(images)
        sizes = {image: _rounded(read_size(image)) for image in dict.fromkeys(images)}
        known |= {size: self._encoder.prompt_length(size) for size in set(sizes.values())}
        return [known[sizes[image]] for image in images]


def _rounded(size: tuple[int, int]) -> tuple[int, int]:
    width, height = (max(1, round(side / _GRAIN)) * _GRAIN for side in size)
    return width, height
