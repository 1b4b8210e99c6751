"""Where the image of an AlignBench row lies: in the release, in a folder of photos, or among what was downloaded."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from halspan.data.addresses import downloaded_file
from halspan.data.alignbench_rows import ImageReference


class ImageFinder:
    """Finds the files of images, in the corpus's folder and in `data.images`.

    An image that `halspan data download` fetched has a name made of its whole address. Otherwise a file name that
    several addresses end in (`.../a/image.jpg`, `.../b/image.jpg`) says nothing about which of them a file is, so it is
    not used.
    """

    def __init__(self, folder: Path, images: Path, references: Iterable[ImageReference]) -> None:
        self.folder = folder
        self.images = images
        urls = {reference.url for reference in references if reference.url}
        self.n_urls = Counter(map(_file_name, urls))

    def find(self, reference: ImageReference) -> str:
        """The image's path, relative to the corpus's folder or absolute; one that does not exist if there is none."""
        path = self.find_file(reference) or next(self._candidates(reference))
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path.resolve())

    def find_file(self, reference: ImageReference) -> Path | None:
        """The image's file, None if there is none."""
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


def _is_file(path: Path) -> bool:
    """Like `Path.is_file`, which raises where a name is too long for the file system, as an address may be."""
    return os.path.isfile(path)  # noqa: PTH113


def _file_name(url: str) -> str:
    try:
        return PurePosixPath(unquote(urlsplit(url).path)).name
    except ValueError:  # "http://[", say
        return ""
