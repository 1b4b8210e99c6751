"""An output that is written once, block by block, such as standard output."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from halspan.core.errors import DataError
from halspan.data.readers.jsonl import write_lines
from halspan.data.streams.journal import Mark
from halspan.data.streams.records import Position
from halspan.data.streams.resumable import Paths


class PipedOutput:
    """An output that writes each block as soon as it is finished, so that the next program can go on.

    Args:
        stream: Stream of bytes.
        on_rejected: Function that is called with each rejected record.

    Attributes:
        mark: State after the last block.
    """

    def __init__(self, stream: BinaryIO, on_rejected: Callable[[Mapping[str, Any]], None]) -> None:
        self._stream = stream
        self._on_rejected = on_rejected
        self.mark = Mark()

    def append(
        self,
        *,
        records: Sequence[Mapping[str, Any]],
        rejected: Sequence[Mapping[str, Any]],
        position: Position,
        counts: Mapping[str, int],
    ) -> None:
        """Write a block; arguments are those of `ResumableOutput.append`.

        Raises:
            BrokenPipeError: The reading program has ended.
            DataError: The stream cannot be written.
        """
        try:
            write_lines(self._stream, records)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DataError(
                f"standard output: cannot be written ({error.strerror}); make room, or give a file"
            ) from None
        for item in rejected:
            self._on_rejected(item)
        self.mark = Mark(position=position, counts=dict(counts))

    def finish(
        self, convert: Callable[[Path, Path], None] | None = None, publish: Callable[[Paths], None] | None = None
    ) -> None:
        """Do nothing, because everything is already written."""


@contextmanager
def pipe_out() -> Iterator[BinaryIO]:
    """Open standard output for bytes.

    Raises:
        DataError: The reading program has ended.
    """
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python prints an error at exit
        raise DataError("standard output: the reading program has ended; the output is incomplete") from None
