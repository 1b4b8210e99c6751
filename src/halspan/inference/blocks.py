"""Blocks of captions that are scored together: captions of one image share a row, wherever they stand in the block."""

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from PIL.Image import Image

from halspan.core.captions import Caption
from halspan.core.errors import HalspanError
from halspan.inference.scores import CaptionScores

MOST_CAPTIONS = 256  # captions that are read together, and that may share rows
MOST_BYTES = 64 * 2**20  # memory for images, of captions that are read together and of a part that is encoded

Block = TypeVar("Block")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Asked:
    """A caption to score.

    Attributes:
        caption: The caption.
        key: Key of its image, equal for equal images.
        load_image: Function that reads the image; it is called in another thread.
    """

    caption: Caption
    key: Hashable
    load_image: Callable[[], Image]


@dataclass(frozen=True, slots=True)
class Answered(Generic[Block, Result]):
    """The results of a part of a block.

    Attributes:
        block: What was read with the captions of the block.
        results: Scores, or the reason why there are none, by the number of the caption in the block, from 0.
        is_last: Whether these are the last results of the block.
    """

    block: Block
    results: dict[int, Result | HalspanError]
    is_last: bool


@dataclass(frozen=True, slots=True)
class SharedRow:
    """An image of a block and all captions of it.

    Attributes:
        load_image: Function that reads the image.
        captions: The captions.
        places: Number of each caption in the block.
    """

    load_image: Callable[[], Image]
    captions: list[Caption] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


def share_rows(asked: Iterable[Asked]) -> list[SharedRow]:
    """Put the captions of each image of a block together, in the order in which images first occur."""
    rows: dict[Hashable, SharedRow] = {}
    for place, one in enumerate(asked):
        row = rows.setdefault(one.key, SharedRow(one.load_image))
        row.captions.append(one.caption)
        row.places.append(place)
    return list(rows.values())


def divide(items: Iterable[Block], measure: Callable[[Block], tuple[int, int]]) -> Iterator[list[Block]]:
    """Divide items into blocks of at most `MOST_CAPTIONS` captions and, beyond a first one, `MOST_BYTES`.

    If the items end with an error, those before it are a block of their own.

    Args:
        items: Items to be scored.
        measure: Function that returns the number of captions of an item, and the bytes that it holds in memory.
    """
    block: list[Block] = []
    n_captions = n_bytes = 0
    try:
        for item in items:
            captions, held = measure(item)
            if block and (n_captions + captions > MOST_CAPTIONS or n_bytes + held > MOST_BYTES):
                yield block
                block, n_captions, n_bytes = [], 0, 0
            block.append(item)
            n_captions += captions
            n_bytes += held
    except Exception:
        if block:
            yield block
        raise
    if block:
        yield block


def in_order(
    parts: Generator[Answered[Block, CaptionScores], None, None],
) -> Generator[CaptionScores | HalspanError, None, None]:
    """Yield the results of blocks in the order of their captions, as soon as those before them are there."""
    waiting: dict[int, CaptionScores | HalspanError] = {}
    following = 0
    with closing(parts):
        for part in parts:
            waiting |= part.results
            while following in waiting:
                yield waiting.pop(following)
                following += 1
            if part.is_last:
                following = 0
