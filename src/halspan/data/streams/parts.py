"""The parts of an output that shards leave beside it, and how they are joined in the order of the input.

The shard 2/4 of `scored.jsonl` leaves `scored.jsonl.2-of-4.jsonl.partial`, its rejected records, and a journal that
says where each block ends (see `halspan.data.streams.resumable`). A part is complete when its journal says so.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from halspan.core.errors import ConfigError, DataError
from halspan.core.files import open_appending, open_regular
from halspan.data.streams.journal import Journal, Mark, Settings, write_merged
from halspan.data.streams.records import Shard, block_of
from halspan.data.streams.resumable import Paths, ResumableOutput, locked_journal, unwritable

_PIECE = 2**20  # bytes
_TAIL = 2**16  # bytes at the end of a journal that hold its last line
_NUMBER = re.compile(rb'"position": \{"number": (\d+)')
_SHARD = "--shard"  # the one setting in which parts differ


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
    name = re.compile(re.escape(output.name) + r"\.(\d+)-of-(\d+)\.jsonl\.journal")
    found = (name.fullmatch(path.name) for path in output.parent.glob("*.journal"))
    shards = sorted((int(match[2]), int(match[1])) for match in found if match)
    return [part for count, index in shards if (part := _read_part(output, Shard(index, count))) is not None]


def _read_part(output: Path, shard: Shard) -> Part | None:
    paths = Paths(part_of(output, shard))
    try:
        with open_regular(paths.journal) as file:
            journal = Journal.read(file)
    except OSError as error:
        raise DataError(f"{paths.journal}: cannot be read ({error.strerror}); check it and its permissions") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{paths.journal}: is damaged ({error}); score its shard again with --overwrite") from None
    if journal.settings is None or journal.mark is None:
        return None
    return Part(shard, paths, journal, journal.settings, journal.mark)


def merge_parts(output: Path, convert: Callable[[Path, Path], None] | None = None) -> Mapping[str, int]:
    """Join the parts of all shards into the output, in the order of the input, and remove them.

    The output has the bytes that one process would have written. A merge that is killed can be repeated.

    Args:
        output: The output that the shards were given.
        convert: Function that converts the lines of the file at its first argument into a file at its second.

    Returns:
        Counts of the results of all shards.

    Raises:
        ConfigError: There are no parts, or some are missing or unfinished, or they were made with different settings;
            the message names them. Or another process is writing the output.
        DataError: A part is damaged, or the output cannot be written.
    """
    parts = find_parts(output)
    is_merged = output.exists() and any(part.journal.is_merged for part in parts)
    _check(output, parts, may_lack=is_merged)
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.mark.counts)
    if not is_merged:
        paths = Paths(output)
        with locked_journal(paths) as journal:
            n_rejected = _join(parts, paths)
            mark = Mark(counts=dict(counts), rejected_bytes=n_rejected, is_complete=True)
            ResumableOutput(paths, journal, mark).finish(convert)
        for part in parts:
            with open_appending(part.paths.journal) as journal:
                write_merged(journal)
    for part in parts:
        part.paths.discard_unfinished()
    return counts


def _check(output: Path, parts: Sequence[Part], *, may_lack: bool) -> None:
    """Require one complete part of each shard, all made with the same settings."""
    again = f"score them with the same --output {output} and --resume"
    if not parts:
        raise ConfigError(f"--merge: there are no parts beside {output}; score with --shard 1/4 and so on first")
    counts = sorted({part.shard.count for part in parts})
    if len(counts) > 1:
        raise ConfigError(
            f"--merge: beside {output} are parts of {' and of '.join(map(str, counts))} shards; remove those "
            f"({output.name}.*) that are not to be merged"
        )
    begun = {part.shard.index for part in parts}
    if not may_lack and (missing := [str(Shard(i, counts[0])) for i in range(1, counts[0] + 1) if i not in begun]):
        raise ConfigError(f"--merge: {output} lacks the shards {', '.join(missing)}; {again}")
    if unfinished := [str(part.shard) for part in parts if not part.mark.is_complete]:
        raise ConfigError(f"--merge: the shards {', '.join(unfinished)} of {output} are not finished; {again}")
    first = parts[0]
    for part in parts[1:]:
        for name in {**first.settings, **part.settings}:
            one, other = first.settings.get(name), part.settings.get(name)
            if one != other and name != _SHARD:
                raise ConfigError(
                    f"--merge: shard {first.shard} was scored with {name} {one!r}, shard {part.shard} with {other!r}; "
                    f"score one of them again with --overwrite"
                )


def _join(parts: Sequence[Part], paths: Paths) -> int:
    """Write the blocks of all parts in the order of the input; return the bytes of rejected records."""
    blocks = sorted(block for number, part in enumerate(parts) for block in _blocks(number, part.journal))
    try:
        with paths.partial.open("wb") as records, paths.rejected_partial.open("wb") as rejected:
            for _, number, (from_records, from_rejected), (to_records, to_rejected) in blocks:
                source = parts[number].paths
                _copy(source.partial, records, from_records, to_records)
                _copy(source.rejected_partial, rejected, from_rejected, to_rejected)
            for file in (records, rejected):
                file.flush()
                os.fsync(file.fileno())
            return rejected.tell()
    except OSError as error:
        raise unwritable(paths.output, error) from None


def _blocks(part: int, journal: Journal) -> Iterator[tuple[int, int, list[int], list[int]]]:
    """Yield, for each block, its number, its part, and where it begins and ends in the part's two files."""
    before = [0, 0]
    for number, *after in journal.ends.tolist():
        if after != before:  # neither empty nor the mark of the end
            yield block_of(number), part, before, after
        before = after


def _copy(source: Path, target: BinaryIO, start: int, stop: int) -> None:
    if start == stop:
        return
    with source.open("rb") as file:  # parts may be more than files that a process may open
        file.seek(start)
        left = stop - start
        while left and (piece := file.read(min(left, _PIECE))):
            target.write(piece)
            left -= len(piece)
    if left:
        raise DataError(f"{source}: {left:,} bytes of finished records are missing; score its shard again")


def lines_read(output: Path, shard: Shard) -> int:
    """Return how many lines of the input a shard has read and finished, from the end of its journal."""
    try:
        with open_regular(Paths(part_of(output, shard)).journal) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines(keepends=True)
    except OSError:  # it has not begun, or is merged already
        return 0
    for line in reversed(lines[1:]):  # the first has the settings, or is cut
        if line.endswith(b"\n") and (found := _NUMBER.search(line)):
            return int(found[1])
    return 0
