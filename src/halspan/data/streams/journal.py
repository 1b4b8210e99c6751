"""The journal of an output: how it is made, and where each finished block ends; its lock keeps other processes away.

The first line has the settings that determine the output's bytes. Each further line is the state after a block.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from halspan.core.errors import ConfigError, DataError
from halspan.data.streams.records import Position

_POLL = 0.2  # seconds between two attempts to lock
_MERGED = {"is_merged": True}

Settings = Mapping[str, str | int | float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The state of the output after a block.

    Attributes:
        position: Position up to which the input is read.
        counts: Counts of the results so far.
        output_bytes: Length of the partial output.
        rejected_bytes: Length of the partial file of rejected records.
        is_complete: Whether the input is at its end.
    """

    position: Position = field(default_factory=Position)
    counts: Mapping[str, int] = field(default_factory=dict)
    output_bytes: int = 0
    rejected_bytes: int = 0
    is_complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What a journal says.

    Attributes:
        settings: Settings that determine the bytes of the output; None where it does not say them.
        mark: State after the last block; None where no block is finished.
        ends: After each block, the number of lines read, and the bytes of the output and of the rejected records.
        n_bytes: Length of its whole lines.
        is_merged: Whether the output was merged into that of all shards.
    """

    settings: Settings | None
    mark: Mark | None
    ends: Int64[ndarray, "block 3"]
    n_bytes: int
    is_merged: bool = False

    @classmethod
    def read(cls, stream: BinaryIO, path: Path) -> "Journal":
        """Read a journal from its beginning to the end, or to a line that a killed process has not finished.

        Args:
            stream: The opened journal.
            path: Its name, for the message.

        Raises:
            DataError: Whole lines of it are not what `write_mark` and the others write.
        """
        try:
            return cls._read(stream)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"{path}: is damaged ({error}); score again with --overwrite") from None

    @classmethod
    def _read(cls, stream: BinaryIO) -> "Journal":
        stream.seek(0)
        settings, mark, whole, is_merged = None, None, 0, False
        ends: list[tuple[int, int, int]] = []
        for line in stream:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                break
            if entry is None:
                break
            if settings is None:
                settings = dict(entry["settings"])
            elif entry == _MERGED:
                is_merged = True
            else:
                mark = _read_mark(entry, mark or Mark())
                ends.append((mark.position.number, mark.output_bytes, mark.rejected_bytes))
            whole += len(line)
        return cls(
            settings=settings,
            mark=mark,
            ends=np.array(ends, np.int64).reshape(-1, 3),
            n_bytes=whole,
            is_merged=is_merged,
        )


def _read_mark(entry: Mapping[str, Any], before: Mark) -> Mark:
    """Read the state after a block, none of whose numbers is below that before.

    Raises:
        ValueError: It is something else, or not as `Mark` describes it.
    """
    mark = Mark(**{**entry, "position": Position(**entry["position"])})
    numbers, least = (
        (one.position.number, one.position.offset, one.output_bytes, one.rejected_bytes) for one in (mark, before)
    )
    are_whole = all(type(number) is int for number in (*numbers, *mark.counts.values()))
    if not are_whole or any(number < low for number, low in zip(numbers, least, strict=True)):
        raise ValueError(f"after {least} comes {numbers}")
    return mark


def begin(journal: BinaryIO, settings: Settings) -> None:
    """Empty a journal, and write the settings."""
    journal.truncate(0)
    append_lines(journal, [{"settings": dict(settings)}])


def write_mark(journal: BinaryIO, mark: Mark) -> None:
    """Write the state after a block."""
    append_lines(journal, [asdict(mark)])


def write_merged(journal: BinaryIO) -> None:
    """Write that the output was merged into that of all shards."""
    append_lines(journal, [_MERGED])


def line_of(item: Mapping[str, Any]) -> bytes:
    """Return the line of an object in JSON Lines."""
    return json.dumps(item, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def append_lines(file: BinaryIO, items: Sequence[Mapping[str, Any]]) -> None:
    """Append JSON Lines and flush them to the disk."""
    if items:
        file.write(b"".join(map(line_of, items)))
        file.flush()
        os.fsync(file.fileno())


def lock(journal: BinaryIO, output: Path, *, patience: float = 0.0) -> None:
    """Keep other processes from the same output; the system releases the lock when this one ends or is killed.

    Args:
        journal: The opened journal.
        output: The output, for the message.
        patience: Seconds to wait for another process, which may be about to end.

    Raises:
        ConfigError: Another process has it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    latest = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= latest:
                raise ConfigError(
                    f"--output: another process is writing {output}; wait for it, or choose another file"
                ) from None
        time.sleep(_POLL)
