"""Rows, the unit of a batch: one image with captions of it; and the order in which training takes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from halspan.core.captions import Caption
from halspan.data.corpus import Corpus

# Rows of similar length share a batch, as far as a random draw of this many batches allows.
POOL_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One image and captions of it, at least one.

    Attributes:
        image: the image's file.
        captions: captions of this image; they never see each other.
    """

    image: Path
    captions: tuple[Caption, ...]

    @property
    def n_characters(self) -> int:
        """Characters of all its captions, the measure of its length."""
        return sum(len(caption.text) for caption in self.captions)


def group_rows(corpus: Corpus, captions: Iterable[Caption], *, max_captions: int) -> list[Row]:
    """Put the captions of each image file together.

    Args:
        corpus: says where images lie.
        captions: captions of this corpus.
        max_captions: captions a row may hold; an image with more of them is given several rows of even size.

    Returns:
        Rows in the order in which their images first occur; captions in a row in the order given.
    """
    by_image: dict[Path, list[Caption]] = {}
    for caption in captions:
        by_image.setdefault(corpus.image_path(caption), []).append(caption)
    return [
        Row(image, tuple(group))
        for image, together in by_image.items()
        for group in _even_parts(together, max_captions)
    ]


def batches(rows: Sequence[Row], *, rows_per_batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Order the rows of one epoch, as a pure function of the arguments.

    Rows are shuffled; pools of `POOL_BATCHES` batches are sorted by length and cut into batches, so that little of a
    batch is padding; the batches are shuffled.

    Args:
        rows: what to order.
        rows_per_batch: rows of a batch; the smaller rest makes one batch of its own.
        seed: of the run, 0 or more.
        epoch: 0-based number of the pass over the rows.

    Returns:
        For each batch the positions of its rows; each position occurs once.
    """
    random = np.random.default_rng([seed, epoch])
    lengths = np.array([row.n_characters for row in rows], dtype=np.int64)
    order = random.permutation(len(rows))
    pools = (
        order[start : start + POOL_BATCHES * rows_per_batch] for start in _starts(rows, POOL_BATCHES * rows_per_batch)
    )
    order = np.concatenate([order[:0], *(pool[np.argsort(lengths[pool], kind="stable")] for pool in pools)])
    cut = [order[start : start + rows_per_batch].tolist() for start in _starts(rows, rows_per_batch)]
    return [cut[position] for position in random.permutation(len(cut))]


def _starts(rows: Sequence[Row], size: int) -> range:
    return range(0, len(rows), size)


def _even_parts(captions: list[Caption], max_captions: int) -> list[list[Caption]]:
    n_parts = -(-len(captions) // max_captions)
    bounds = [len(captions) * part // n_parts for part in range(n_parts + 1)]
    return [captions[start:end] for start, end in pairwise(bounds)]
