"""Which reader a corpus needs, by looking at its first record."""

from pathlib import Path
from typing import Literal

from halspan.core.errors import DataError
from halspan.data.corpus import Skips, find_corpus_file
from halspan.data.jsonl import read_objects

Format = Literal["jsonl", "alignbench", "chocolate"]
FILE_NAMES = ("chocolate.json", "halcap_bench.jsonl", "*.jsonl", "*.json")


def detect_format(path: Path) -> Format:
    """Tell AlignBench's columns and CHOCOLATE's list from canonical JSON Lines, which is also the answer in doubt.

    Raises:
        DataError: there is no corpus at the path.
    """
    file = find_corpus_file(path, FILE_NAMES)
    if file.suffix == ".json":
        return "chocolate"
    try:
        _, record = next(read_objects(file, Skips("raise")))
    except DataError:
        return "jsonl"
    return "alignbench" if "sentence_index" in record else "jsonl"
