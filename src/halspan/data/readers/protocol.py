"""The interface of readers, and the sample of a file by which they recognize it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from halspan.data.corpus import Corpus, Skips


@dataclass(frozen=True, slots=True)
class Sample:
    """The beginning of a corpus's file.

    Attributes:
        file: Its path.
        head: Its first bytes, at most 65,536; none if it cannot be read.
        record: The first object of JSON Lines; None if the file does not begin with one.
    """

    file: Path
    head: bytes
    record: Mapping[str, Any] | None


class Reader(Protocol):
    """A format of corpora: a pydantic dataclass, whose fields are the keys of its file in `conf/data`.

    It has at least the fields `path`, `images`, `on_error`, `missing_image` and `min_images`, which the console
    commands set. A package registers its class in the entry point group `halspan.readers`; the entry point's name is
    what `--format` calls it.
    """

    file_names: ClassVar[tuple[str, ...]]
    """Patterns of file names, by which a corpus is found in a folder."""

    @classmethod
    def recognizes(cls, sample: Sample) -> bool:
        """Return whether a file is certainly in this format."""
        ...

    def load(self, *, check_images: bool = True) -> Corpus:
        """Read the corpus.

        Args:
            check_images: Whether captions without a usable image are refused or left out; False looks at no image.

        Raises:
            DataError: The corpus cannot be found or used; the message names file, line, value and remedy.
        """
        ...


class LinkingReader(Reader, Protocol):
    """A reader whose corpora may link to images on the web, for `halspan data download` to fetch."""

    @classmethod
    def find_links(cls, file: Path, images: Path, skips: Skips) -> dict[str, bool]:
        """Return each address, and whether all records that name it find their image without it.

        Args:
            file: File of the corpus.
            images: Folder that image paths start from.
            skips: Handler of malformed records.
        """
        ...


class PublishedReader(Reader, Protocol):
    """A reader that reads a published corpus when `path` is not set."""

    @classmethod
    def fetch(cls) -> Path:
        """Return the folder of the published corpus, downloaded if necessary.

        Raises:
            DataError: The corpus cannot be downloaded.
        """
        ...
