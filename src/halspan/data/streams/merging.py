"""The merge of the parts of all shards, in the order of the input; it can be repeated after a kill at any moment."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from halspan.core.errors import ConfigError, DataError
from halspan.core.files import open_regular
from halspan.data.stores.access import exists
from halspan.data.stores.paths import Place
from halspan.data.streams.journal import Journal, Mark, write_merged
from halspan.data.streams.parts import Part, find_parts
from halspan.data.streams.records import Shard, block_of
from halspan.data.streams.resumable import Paths, ResumableOutput, locked_journal, unwritable
from halspan.data.streams.stored import StoredOutput

_PIECE = 2**20  # bytes
_SHARD = "--shard"  # the one setting in which parts differ
_MOST_NAMED = 20  # shards in a message


def merge_parts(output: Place, convert: Callable[[Path, Path], None] | None = None) -> Mapping[str, int]:
    """Join the parts of all shards into the output, in the order of the input, and remove them.

    The output has the bytes that one process would have written. A merge that is killed can be repeated. Parts in an
    object store are brought here, and the output is put there before they are removed.

    Args:
        output: The output that the shards were given.
        convert: Function that converts the lines of the file at its first argument into a file at its second.

    Returns:
        Counts of the results of all shards.

    Raises:
        ConfigError: There are no parts, or some are missing or unfinished, or they were made with different settings;
            the message names them. Or another process is writing the output.
        DataError: A part is damaged, or the output cannot be written.
        ResourceError: The store cannot be used.
    """
    if isinstance(output, Path):
        return _merge(output, output, None, convert)
    stored = StoredOutput(output)
    with stored.bring_journals() as local:
        return _merge(output, local, stored, convert)


def _merge(
    output: Place, local: Path, stored: StoredOutput | None, convert: Callable[[Path, Path], None] | None
) -> Mapping[str, int]:
    parts = find_parts(local)
    is_merged = all(part.journal.is_merged for part in parts) and exists(output)  # all are marked before one is removed
    _check(output, parts, may_lack=is_merged)
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.mark.counts)
    if not is_merged:
        _write(parts, Paths(local), stored, counts, convert)
        for part in parts:
            _mark(part, stored)
    for part in parts:
        if stored is not None:
            stored.remove_part(part.shard, is_merged=True)
        with _unchanged(part):
            part.paths.discard_unfinished()
    return counts


def _write(
    parts: Sequence[Part],
    paths: Paths,
    stored: StoredOutput | None,
    counts: Mapping[str, int],
    convert: Callable[[Path, Path], None] | None,
) -> None:
    with locked_journal(paths) as journal:
        if stored is not None:
            stored.bring_parts(parts)
        journal.truncate(0)  # of one process that was interrupted; what it has left is replaced
        n_rejected = _join(parts, paths)
        for part in parts:
            with _unchanged(part):
                pass
        mark = Mark(counts=dict(counts), rejected_bytes=n_rejected, is_complete=True)
        ResumableOutput(paths, journal, mark).finish(convert, None if stored is None else stored.put)


@contextmanager
def _unchanged(part: Part) -> Iterator[BinaryIO]:
    """Keep other processes from a part, and require that its shard was not scored again since its journal was read.

    Raises:
        ConfigError: It was, or another process scores it.
    """
    with locked_journal(part.paths) as journal:
        now = Journal.read(journal, part.paths.journal)
        if (now.settings, now.mark) != (part.settings, part.mark):
            if now.settings is None:  # it was removed, or has just begun
                part.paths.journal.unlink()
            raise ConfigError(
                f"--merge: shard {part.shard} was merged or scored again meanwhile; the same command does what is left"
            )
        yield journal


def _mark(part: Part, stored: StoredOutput | None) -> None:
    """Note in the journal of a part that it was merged."""
    if not part.journal.is_merged:
        with _unchanged(part) as journal:
            write_merged(journal)
        if stored is not None:
            stored.put_journal(part)


def _check(output: Place, parts: Sequence[Part], *, may_lack: bool) -> None:
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
    lacking = (str(Shard(i, counts[0])) for i in range(1, counts[0] + 1) if i not in begun)
    if not may_lack and (missing := list(islice(lacking, _MOST_NAMED))):
        others = counts[0] - len(begun) - len(missing)
        more = f" and {others:,} more" if others else ""
        raise ConfigError(f"--merge: {output} lacks the shards {', '.join(missing)}{more}; {again}")
    if unfinished := [str(part.shard) for part in parts if not part.mark.is_complete]:
        raise ConfigError(f"--merge: the shards {', '.join(unfinished)} of {output} are not finished; {again}")
    for part in parts:
        if (own := part.settings.get(_SHARD)) != str(part.shard):
            raise ConfigError(f"--merge: {part.paths.journal.name} is of shard {own}, not {part.shard}; rename it back")
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
        for path in (paths.partial, paths.rejected_partial):
            path.unlink(missing_ok=True)  # it may be a link
        with paths.partial.open("xb") as records, paths.rejected_partial.open("xb") as rejected:
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
    try:
        opened = open_regular(source, follows_links=False)  # parts may be more than files that a process may open
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); score its shard again") from None
    with opened as file:
        file.seek(start)
        left = stop - start
        while left and (piece := file.read(min(left, _PIECE))):
            target.write(piece)
            left -= len(piece)
    if left:
        raise DataError(f"{source}: {left:,} bytes of finished records are missing; score its shard again")
