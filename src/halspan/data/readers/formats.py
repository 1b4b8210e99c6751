"""Choice of the reader for a corpus, by the name of its file and its first record."""

from collections.abc import Iterable
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

from halspan.core.errors import DataError
from halspan.core.files import open_regular
from halspan.data.corpus import Skips, find_corpus_file
from halspan.data.readers.file_kinds import HEAD_BYTES
from halspan.data.readers.jsonl import read_objects
from halspan.data.readers.protocol import Sample
from halspan.data.readers.registry import READERS, find_reader


def find_file(path: Path) -> Path:
    """Return a corpus's file: the path itself, or the folder's only file with a name that a reader knows.

    Raises:
        DataError: There is no corpus at the path, or several.
    """
    own = _patterns(READERS.own)
    folder = path.expanduser()
    is_of_package = folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in own)
    return find_corpus_file(path, _patterns(READERS.names()) if is_of_package else own)


def detect_format(path: Path) -> str:
    """Return the name of the reader that recognizes a corpus; if none does, of the one with such file names.

    Halspan's own readers look first, so packages are imported only for files that these do not recognize.

    Raises:
        ConfigError: A package that registers a reader cannot be imported.
        DataError: There is no corpus at the path.
    """
    file = find_file(path)
    sample = Sample(file, _head(file), _first_record(file))
    recognized = (name for name in READERS.names() if find_reader(name).recognizes(sample))
    return next(chain(recognized, _by_name(file, READERS.own), READERS.own))


def _by_name(file: Path, names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if any(fnmatch(file.name, pattern) for pattern in find_reader(name).file_names))


def _patterns(names: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns of readers' files, whole names before those with a wildcard."""
    patterns = [pattern for name in names for pattern in find_reader(name).file_names]
    return tuple(dict.fromkeys(sorted(patterns, key=lambda pattern: "*" in pattern)))


def _head(file: Path) -> bytes:
    try:
        with open_regular(file) as stream:
            return stream.read(HEAD_BYTES)
    except OSError:
        return b""


def _first_record(file: Path) -> dict[str, Any] | None:
    try:
        return next((record for _, record in read_objects(file, Skips("raise"))), None)
    except DataError:
        return None
