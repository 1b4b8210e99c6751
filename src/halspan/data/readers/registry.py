"""Readers by name; each is imported on first use."""

from typing import TYPE_CHECKING, cast

from halspan.core.extensions import Registry

if TYPE_CHECKING:  # the console command lists names without importing a reader
    from halspan.data.readers.protocol import LinkingReader, PublishedReader, Reader

READERS = Registry(
    "halspan.readers",
    "reader",
    {
        "jsonl": "halspan.data.readers.jsonl:JsonLines",
        "chocolate": "halspan.data.readers.chocolate:Chocolate",
        "alignbench": "halspan.data.readers.alignbench:AlignBench",
    },
)
"""Readers in the order in which they check a file; the first is the default if none recognizes it."""

PUBLISHED = "alignbench"
"""The reader of the corpus that is used if no path is given."""


def find_reader(name: str) -> "type[Reader]":
    """Return the class of a reader.

    Raises:
        ConfigError: It is not registered, or its package cannot be imported.
    """
    return cast("type[Reader]", READERS.find(name))


def find_linking_reader(name: str) -> "type[LinkingReader] | None":
    """Return the class of a reader whose corpora may link to images; None if the reader's do not.

    Raises:
        ConfigError: It is not registered, or its package cannot be imported.
    """
    reader = READERS.find(name)
    return cast("type[LinkingReader]", reader) if hasattr(reader, "find_links") else None


def find_published_reader(name: str) -> "type[PublishedReader] | None":
    """Return the class of a reader of a published corpus; None if the reader has none.

    Raises:
        ConfigError: It is not registered, or its package cannot be imported.
    """
    reader = READERS.find(name)
    return cast("type[PublishedReader]", reader) if hasattr(reader, "fetch") else None
