"""Location of the image of an AlignBench row: in the release, in a folder of photos, or downloaded."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from halspan.core.errors import DataError
from halspan.data.corpus import Skips
from halspan.data.download.addresses import downloaded_file
from halspan.data.readers.alignbench_rows import ImageReference, read_source
from halspan.data.readers.jsonl import read_objects


class ImageFinder:
    """Finder of image files, in the corpus's folder and in `data.images`.

    An image that `halspan data download` fetched has a name made from its whole address. Other files are found by name,
    unless several addresses end in that name (`.../a/image.jpg`, `.../b/image.jpg`): the file could belong to any of
    them, so it is not used.
    """

    def __init__(self, folder: Path, images: Path, references: Iterable[ImageReference]) -> None:
        self.folder = folder
        self.images = images
        urls = {reference.url for reference in references if reference.url}
        self.n_urls = Counter(map(_file_name, urls))

    def find(self, reference: ImageReference) -> str:
        """Return the image's path, relative to the corpus's folder or absolute, even if there is no such file."""
        path = self.find_file(reference) or next(self._candidates(reference))
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path.resolve())

    def find_file(self, reference: ImageReference) -> Path | None:
        """Return the image's file; None if there is none."""
        return next((path for path in self._candidates(reference) if _is_file(path)), None)

    def _candidates(self, reference: ImageReference) -> Iterator[Path]:
        if reference.path:
            yield self.folder / reference.path
            yield self.images / reference.path
        if reference.name:
            yield self.images / reference.name
        if reference.url:
            yield self.images / downloaded_file(reference.url)
            yield self.folder / downloaded_file(reference.url)
            name = _file_name(reference.url)
            if name and self.n_urls[name] == 1:
                yield self.images / name
            yield self.images / reference.url


def find_addresses(file: Path, images: Path, skips: Skips) -> dict[str, bool]:
    """Return each address in `image_url`, and whether all of its rows find their image without it.

    Args:
        file: Rows in AlignBench's columns.
        images: Folder that image paths start from.
        skips: Handler of malformed records.
    """
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


def _is_file(path: Path) -> bool:
    """Return whether a path is a file; unlike `Path.is_file`, a name that is too long does not raise."""
    return os.path.isfile(path)  # noqa: PTH113


def _file_name(url: str) -> str:
    try:
        return PurePosixPath(unquote(urlsplit(url).path)).name
    except ValueError:  # for example "http://["
        return ""
