"""Which reader a corpus needs, by looking at its first record."""

from pathlib import Path
from typing import Literal

from halspan.core.errors import DataError
from halspan.core.files import open_regular
from halspan.data.corpus import Skips, find_corpus_file
from halspan.data.file_kinds import HEAD_BYTES
from halspan.data.jsonl import read_objects

Format = Literal["jsonl", "alignbench", "chocolate"]
FILE_NAMES = ("chocolate.json", "halcap_bench.jsonl", "*.jsonl", "*.json")


def detect_format(path: Path) -> Format:
    """Tell AlignBench's columns and CHOCOLATE's list from canonical JSON Lines, which is also the answer in doubt.

    Raises:
        DataError: there is no corpus at the path.
    """
    file = find_corpus_file(path, FILE_NAMES)
    if file.suffix == ".json" and not _holds_captions(file):
        return "chocolate"
    try:
        _, record = next(read_objects(file, Skips("raise")))
    except DataError:
        return "jsonl"
    return "alignbench" if "sentence_index" in record else "jsonl"


def _holds_captions(file: Path) -> bool:
    """Say whether a JSON file holds canonical captions, which have to be lines; their reader says so."""
    try:
        with open_regular(file) as stream:
            head = stream.read(HEAD_BYTES)
    except OSError:
        return False
    return b'"generator"' in head and b'"image_path"' not in head
