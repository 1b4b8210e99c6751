"""The blind controls: captions with wrong or gray images, on which a detector that uses images must fail."""

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from halspan.core.captions import Caption
from halspan.data.corpus import Corpus
from halspan.data.images import load_image

_GRAY = (128, 128, 128)


def exchange_images(
    corpus: Corpus, captions: Iterable[Caption], *, seed: int
) -> tuple[tuple[Caption, ...], dict[str, str]]:
    """Exchange images between captions of one direction, so that every caption gets an image of other content.

    The exchange is a random cycle through the distinct image contents (Sattolo's algorithm). Captions that share an
    image therefore share another one afterwards, and byte-identical files count as one image.

    Args:
        corpus: Corpus of the captions, which locates their images.
        captions: Captions of this corpus.
        seed: Seed of the cycle.

    Returns:
        The captions with other images, in their order, without those of a direction that has only one image; and the
        reason for each such direction.

    Raises:
        DataError: An image cannot be read.
    """
    captions = tuple(captions)
    contents = {caption.id: corpus.image_hash(caption) for caption in captions}
    given: dict[tuple[str, str], str] = {}
    reasons: dict[str, str] = {}
    for direction in dict.fromkeys(caption.direction for caption in captions):
        image_of = {contents[c.id]: c.image for c in reversed(captions) if c.direction == direction}
        if len(image_of) == 1:
            reasons[direction] = "one image only, so there is none to exchange it for"
            continue
        cycle = _random_cycle(sorted(image_of), seed)
        given |= {(direction, content): image_of[other] for content, other in cycle.items()}
    exchanged = tuple(
        replace(caption, image=given[caption.direction, contents[caption.id]])
        for caption in captions
        if caption.direction not in reasons
    )
    return exchanged, reasons


def read_image(path: Path, *, blank: bool) -> Image.Image:
    """Read an image, or return a gray one of its size."""
    image = load_image(path)
    return Image.new("RGB", image.size, _GRAY) if blank else image


def _random_cycle(items: list[str], seed: int) -> dict[str, str]:
    """Map every item to another one, in a single random cycle."""
    source = random.Random(seed)
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        other = source.randrange(last)
        order[last], order[other] = order[other], order[last]
    return dict(zip(items, order, strict=True))
