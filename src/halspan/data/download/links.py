"""The images that a corpus only links to: their addresses, and which of them are on disk."""

from dataclasses import dataclass
from pathlib import Path

from halspan.core.errors import ConfigError
from halspan.data.corpus import Skips
from halspan.data.readers.formats import find_file
from halspan.data.readers.registry import READERS, find_linking_reader


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses of a corpus's images.

    Attributes:
        to_fetch: Distinct addresses, in order of occurrence.
        at_hand: Addresses whose image the corpus's reader already finds under another name than a download's.
        n_malformed: Number of records that could not be read.
    """

    to_fetch: tuple[str, ...]
    at_hand: tuple[str, ...]
    n_malformed: int


def find_links(path: Path, format_: str, *, images: Path | None = None) -> Links:
    """Return the addresses of a corpus's images.

    Args:
        path: The corpus's file or folder.
        format_: Name of its reader.
        images: Folder that image paths start from; the corpus's own if None.

    Raises:
        ConfigError: A corpus of this format holds no addresses.
        DataError: There is no corpus at the path.
    """
    reader = find_linking_reader(format_)
    if reader is None:
        others = " and ".join(sorted(name for name in READERS.own if find_linking_reader(name) is not None))
        raise ConfigError(f"--format: {format_} holds no addresses of images; {others} may")
    file = find_file(path)
    skips = Skips("skip")
    at_hand = reader.find_links(file, file.parent if images is None else images, skips)
    return Links(
        to_fetch=tuple(url for url, found in at_hand.items() if not found),
        at_hand=tuple(url for url, found in at_hand.items() if found),
        n_malformed=sum(skips.counts.values()),
    )
