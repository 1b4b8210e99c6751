"""Rows, the unit of a batch (one image with its captions), and the order in which training uses them."""

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from halspan.core.captions import Caption
from halspan.data.corpus import Corpus

# Number of batches in a pool of random rows, in which rows of similar length share a batch.
POOL_BATCHES = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One image and at least one caption of it.

    Attributes:
        image: The image's file.
        captions: Captions of this image; they never see each other.
    """

    image: Path
    captions: tuple[Caption, ...]


def group_rows(corpus: Corpus, captions: Iterable[Caption], *, max_captions: int) -> list[Row]:
    """Group the captions of each image file into rows.

    Args:
        corpus: Corpus of the captions, which locates their images.
        captions: Captions of this corpus.
        max_captions: Largest number of captions in a row; an image with more of them gets several rows of even size.

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


def batches(lengths: Sequence[int], *, rows_per_batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Divide the rows of one epoch into batches, as a pure function of the arguments.

    Rows are shuffled. Pools of `POOL_BATCHES` batches are then sorted by length and cut into batches, so that batches
    need little padding. At last the batches are shuffled.

    Args:
        lengths: Length of each row, in tokens.
        rows_per_batch: Number of rows in a batch; the rest makes a smaller batch.
        seed: Seed of the run, 0 or more.
        epoch: 0-based number of the pass over the rows.

    Returns:
        The positions of the rows in each batch; each position occurs once.

    >>> sorted(len(batch) for batch in batches([30, 20, 40, 20, 30], rows_per_batch=2, seed=1, epoch=0))
    [1, 2, 2]
    """
    random = np.random.default_rng([seed, epoch])
    known = np.array(lengths, dtype=np.int64)
    order = random.permutation(len(known))
    pools = (
        order[start : start + POOL_BATCHES * rows_per_batch] for start in _starts(order, POOL_BATCHES * rows_per_batch)
    )
    order = np.concatenate([order[:0], *(pool[np.argsort(known[pool], kind="stable")] for pool in pools)])
    cut = [order[start : start + rows_per_batch].tolist() for start in _starts(order, rows_per_batch)]
    return [cut[position] for position in random.permutation(len(cut))]


def share_out(batch: Sequence[int], lengths: Sequence[int], *, devices: int) -> list[list[int]]:
    """Divide a batch among devices so that each has nearly equal work.

    The longest row goes first, each row to the device with the least work so far (Graham 1969).

    Args:
        batch: Positions of rows.
        lengths: Length of each row that a position can mean, in tokens.
        devices: Number of devices.

    Returns:
        The positions for each device, in the order of the batch; empty for some where there are fewer rows.
    """
    work = [0] * devices
    chosen: dict[int, int] = {}
    for place in sorted(range(len(batch)), key=lambda place: -lengths[batch[place]]):
        device = work.index(min(work))
        work[device] += lengths[batch[place]]
        chosen[place] = device
    return [[row for place, row in enumerate(batch) if chosen[place] == device] for device in range(devices)]


def _starts(items: Sized, size: int) -> range:
    return range(0, len(items), size)


def _even_parts(captions: list[Caption], max_captions: int) -> list[list[Caption]]:
    n_parts = -(-len(captions) // max_captions)
    bounds = [len(captions) * part // n_parts for part in range(n_parts + 1)]
    return [captions[start:end] for start, end in pairwise(bounds)]
