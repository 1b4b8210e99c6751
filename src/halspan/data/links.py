"""The images that a corpus only links to: their addresses, and which of them are at hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from halspan.core.errors import DataError
from halspan.data.addresses import downloaded_file, is_address
from halspan.data.alignbench_images import ImageFinder
from halspan.data.alignbench_rows import ImageReference, read_source
from halspan.data.corpus import Skips, find_corpus_file
from halspan.data.formats import FILE_NAMES
from halspan.data.jsonl import read_objects

LinkingFormat = Literal["jsonl", "alignbench"]


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses of a corpus's images.

    Attributes:
        to_fetch: each once, in the order in which they occur.
        at_hand: those whose image the corpus's reader finds already, under a name that no download gave it.
        n_malformed: records that could not be read.
    """

    to_fetch: tuple[str, ...]
    at_hand: tuple[str, ...]
    n_malformed: int


def find_links(path: Path, format_: LinkingFormat, *, images: Path | None = None) -> Links:
    """Find the addresses in `image_url` (AlignBench's columns) or `image` (canonical captions).

    Args:
        path: the corpus's file or folder.
        format_: how it is written.
        images: folder that image paths start from; the corpus's own if None.

    Raises:
        DataError: there is no corpus.
    """
    file = find_corpus_file(path, FILE_NAMES)
    images = file.parent if images is None else images
    skips = Skips("skip")
    if format_ == "alignbench":
        at_hand = _of_alignbench(file, images, skips)
    else:
        at_hand = dict.fromkeys(_of_captions(file, skips), False)
    return Links(
        to_fetch=tuple(url for url, found in at_hand.items() if not found),
        at_hand=tuple(url for url, found in at_hand.items() if found),
        n_malformed=sum(skips.counts.values()),
    )


def _of_alignbench(file: Path, images: Path, skips: Skips) -> dict[str, bool]:
    """Each address, and whether all rows that name it find their image without it."""
    references: dict[ImageReference, None] = {}
    for where, record in read_objects(file, skips):
        try:
            references[read_source(record)[1]] = None
        except DataError as error:
            skips.add("malformed records", f"{where}: {error}")
    finder = ImageFinder(file.parent, images, references)
    at_hand: dict[str, bool] = {}
    for reference in references:
        if reference.url:
            path = finder.find_file(reference)
            found = path is not None and path != images / downloaded_file(reference.url)
            at_hand[reference.url] = found and at_hand.get(reference.url, True)
    return at_hand


def _of_captions(file: Path, skips: Skips) -> list[str]:
    images = (record.get("image") for _, record in read_objects(file, skips))
    return [image.strip() for image in images if isinstance(image, str) and is_address(image.strip())]
