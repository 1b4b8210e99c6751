"""The parts of an output that shards leave beside it.

The shard 2/4 of `scored.jsonl` leaves `scored.jsonl.2-of-4.jsonl.partial`, its rejected records, and a journal that
says where each block ends (see `halspan.data.streams.resumable`). A part is complete when its journal says so.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from halspan.core.errors import DataError
from halspan.core.files import open_regular
from halspan.data.streams.journal import Journal, Mark, Settings
from halspan.data.streams.records import MOST_SHARDS, Shard
from halspan.data.streams.resumable import Paths

_TAIL = 2**16  # bytes at the end of a journal that hold its last line
_WHOLE = "[1-9][0-9]{0,9}"  # as shards write them
_NUMBER = re.compile(rb'"position": \{"number": (\d+)')


@dataclass(frozen=True, slots=True)
class Part:
    """What a shard has left.

    Attributes:
        shard: The shard.
        paths: Its files.
        journal: What its journal says.
        settings: Settings that it was made with.
        mark: State after its last block.
    """

    shard: Shard
    paths: Paths
    journal: Journal
    settings: Settings
    mark: Mark


def part_of(output: Path, shard: Shard) -> Path:
    """Return the name by which a shard writes its part: the output itself where there is only one shard.

    >>> part_of(Path("scored.jsonl.gz"), Shard(2, 4)).name
    'scored.jsonl.gz.2-of-4.jsonl'
    """
    return output if shard.count == 1 else output.with_name(f"{output.name}.{shard.index}-of-{shard.count}.jsonl")


def find_parts(output: Path) -> list[Part]:
    """Return the parts beside an output, in the order of their shards; those without a finished block are left out.

    Raises:
        DataError: A journal cannot be read.
    """
    shards = shards_among(output.name, (path.name for path in output.parent.glob("*.journal")))
    return [part for shard in shards if (part := _read_part(output, shard)) is not None]


def shards_among(output: str, names: Iterable[str]) -> list[Shard]:
    """Return the shards of an output whose journals are among these names of files, in order.

    >>> [str(shard) for shard in shards_among("a.jsonl", ["a.jsonl.2-of-4.jsonl.journal", "b.jsonl"])]
    ['2/4']
    """
    name = re.compile(re.escape(output) + rf"\.({_WHOLE})-of-({_WHOLE})\.jsonl\.journal")
    found = ((int(match[2]), int(match[1])) for match in map(name.fullmatch, names) if match)
    return [Shard(index, count) for count, index in sorted(found) if index <= count <= MOST_SHARDS]


def _read_part(output: Path, shard: Shard) -> Part | None:
    paths = Paths(part_of(output, shard))
    try:
        with open_regular(paths.journal, follows_links=False) as file:
            journal = Journal.read(file, paths.journal)
    except OSError as error:
        raise DataError(f"{paths.journal}: cannot be read ({error.strerror}); check it and its permissions") from None
    if journal.settings is None or journal.mark is None:
        return None
    return Part(shard, paths, journal, journal.settings, journal.mark)


def lines_read(output: Path, shard: Shard) -> int:
    """Return how many lines of the input a shard has read and finished, from the end of its journal."""
    try:
        with open_regular(Paths(part_of(output, shard)).journal, follows_links=False) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines(keepends=True)
    except OSError:  # it has not begun, or is merged already
        return 0
    for line in reversed(lines[1:]):  # the first has the settings, or is cut
        if line.endswith(b"\n") and (found := _NUMBER.search(line)):
            return int(found[1])
    return 0
