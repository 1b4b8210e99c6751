"""An output that grows block by block; a resumed run keeps every finished block, to the byte.

Until `scored.jsonl` is finished, there are three files next to it. Blocks are appended to `scored.jsonl.partial` and
`scored.rejected.jsonl.partial`. After each block, `scored.jsonl.journal` records their lengths and the position in the
input. If the run is killed, everything beyond these lengths is cut off when it continues.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from halspan.core.errors import ConfigError, DataError
from halspan.core.files import open_appending
from halspan.data.streams.journal import Journal, Mark, Settings, append_lines, begin, lock, write_mark
from halspan.data.streams.lines import without_suffixes
from halspan.data.streams.records import Position

_NOT_HERE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_NOT_HERE |= {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}  # of file systems without locks
_PIECE = 2**20  # bytes


class Paths:
    """The names of an output and of the files beside it.

    Args:
        output: The file to write.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.rejected = output.with_name(f"{without_suffixes(output).name}.rejected.jsonl")
        self.partial = _add(output, ".partial")
        self.rejected_partial = _add(self.rejected, ".partial")
        self.converted = _add(output, ".converted")
        self.journal = _add(output, ".journal")

    def has_unfinished(self) -> bool:
        """Return whether an interrupted run has left an unfinished output."""
        if not self.journal.is_file():
            return False
        with self.journal.open("rb") as journal:
            return sum(1 for _ in zip(journal, range(2), strict=False)) == 2  # its settings and a finished block

    def discard_unfinished(self) -> None:
        """Remove the unfinished output of an interrupted run."""
        for path in (self.partial, self.rejected_partial, self.converted, self.journal):
            path.unlink(missing_ok=True)


class Output(Protocol):
    """A sink for blocks of predictions.

    Attributes:
        mark: State after the last block.
    """

    mark: Mark

    def append(
        self,
        *,
        records: Sequence[Mapping[str, Any]],
        rejected: Sequence[Mapping[str, Any]],
        position: Position,
        counts: Mapping[str, int],
    ) -> None:
        """Write a block, see `ResumableOutput.append`."""
        ...

    def finish(
        self, convert: Callable[[Path, Path], None] | None = None, publish: Callable[[Paths], None] | None = None
    ) -> None:
        """End the output, see `ResumableOutput.finish`."""
        ...


class ResumableOutput:
    """An output that appends blocks; `open_output` makes it.

    Attributes:
        paths: Its files.
        mark: State after the last block.
    """

    def __init__(self, paths: Paths, journal: BinaryIO, mark: Mark) -> None:
        self.paths = paths
        self._journal = journal
        self.mark = mark
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        if not mark.is_complete:
            self._files = (
                _open_at(paths.partial, mark.output_bytes),
                _open_at(paths.rejected_partial, mark.rejected_bytes),
            )

    def append(
        self,
        *,
        records: Sequence[Mapping[str, Any]],
        rejected: Sequence[Mapping[str, Any]],
        position: Position,
        counts: Mapping[str, int],
    ) -> None:
        """Write a block; once this returns, the block is never computed again.

        Args:
            records: Records for the output.
            rejected: Records for the file of rejected records.
            position: Position after the block.
            counts: Counts of all blocks so far.

        Raises:
            DataError: The disk is full or no longer there.
        """
        if self._files is None:
            raise RuntimeError("the output is complete")
        try:
            for file, items in zip(self._files, (records, rejected), strict=True):
                append_lines(file, items)
            sizes = [file.tell() for file in self._files]
            self._write_mark(
                Mark(position=position, counts=dict(counts), output_bytes=sizes[0], rejected_bytes=sizes[1])
            )
        except OSError as error:
            raise unwritable(self.paths.output, error) from None

    def complete(self) -> None:
        """Note that the input is at its end; the output stays where it is, for a merge with other shards.

        Raises:
            DataError: It cannot be written.
        """
        try:
            if not self.mark.is_complete:
                self._write_mark(replace(self.mark, is_complete=True))
        except OSError as error:
            raise unwritable(self.paths.output, error) from None

    def finish(
        self, convert: Callable[[Path, Path], None] | None = None, publish: Callable[[Paths], None] | None = None
    ) -> None:
        """Move the whole output into place; if the process is killed meanwhile, the next run does it again.

        Args:
            convert: Function that converts the lines of the file at its first argument into a file at its second.
            publish: Function that puts the output to where it belongs, if that is not here.

        Raises:
            DataError: It cannot be written.
        """
        paths = self.paths
        self.complete()
        try:
            self.close()
            if paths.rejected_partial.exists():
                _move(paths.rejected_partial, paths.rejected, keep=self.mark.rejected_bytes > 0)
            if paths.partial.exists():
                if convert is not None:
                    paths.converted.unlink(missing_ok=True)  # it may be a link
                    convert(paths.partial, paths.converted)
                    _sync(paths.converted)
                    paths.converted.replace(paths.output)
                    paths.partial.unlink()
                else:
                    paths.partial.replace(paths.output)
            if publish is not None:
                publish(paths)
            paths.journal.unlink()
        except OSError as error:
            raise unwritable(paths.output, error) from None

    def close(self) -> None:
        """Close the files; unfinished output stays for another run."""
        for file in self._files or ():
            with suppress(OSError):  # bytes that a full disk did not take are beyond the mark
                file.close()
        self._files = None

    def _write_mark(self, mark: Mark) -> None:
        write_mark(self._journal, mark)
        self.mark = mark


@contextmanager
def open_output(
    output: Path, *, settings: Settings, resume: bool, restart: bool = False, patience: float = 0.0
) -> Iterator[ResumableOutput]:
    """Begin an output, or continue one.

    Args:
        output: File to write; its folder is created if necessary.
        settings: Settings that determine its bytes, by the names that users know.
        resume: Whether to continue an interrupted run, if there is one; otherwise its unfinished output is removed.
        restart: Whether a run with other settings is removed too; otherwise it is refused.
        patience: Seconds to wait for another process that writes the output.

    Raises:
        ConfigError: The interrupted run had other settings, or another process is writing the output.
        DataError: The output cannot be written, or the files of the interrupted run are incomplete.
    """
    paths = Paths(output)
    with locked_journal(paths, patience=patience) as journal:
        mark = _continue(paths, journal, settings, restart=restart) if resume else None
        opened = ResumableOutput(paths, journal, mark or _begin(paths, journal, settings))
        try:
            yield opened
        finally:
            opened.close()
            if not paths.has_unfinished():  # no block is on disk
                paths.discard_unfinished()


@contextmanager
def locked_journal(paths: Paths, *, patience: float = 0.0) -> Iterator[BinaryIO]:
    """Open the journal of an output, and keep other processes from it.

    Raises:
        ConfigError: Another process is writing the output.
        DataError: The journal cannot be written.
    """
    try:
        paths.output.parent.mkdir(parents=True, exist_ok=True)
        journal = _open_locked(paths, patience)
    except OSError as error:
        raise unwritable(paths.output, error) from None
    try:
        yield journal
    finally:
        with suppress(OSError):
            journal.close()


def _open_locked(paths: Paths, patience: float) -> BinaryIO:
    """Open the journal and lock it; a lock on one that another process has removed meanwhile would have no effect."""
    while True:
        journal = open_appending(paths.journal)
        try:
            lock(journal, paths.output, patience=patience)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(journal.fileno()), paths.journal.stat()):
                    return journal
        except BaseException:
            journal.close()
            raise
        journal.close()


def _begin(paths: Paths, journal: BinaryIO, settings: Settings) -> Mark:
    for path in (paths.partial, paths.rejected_partial, paths.converted):
        path.unlink(missing_ok=True)
    begin(journal, settings)
    return Mark()


def _continue(paths: Paths, journal: BinaryIO, settings: Settings, *, restart: bool) -> Mark | None:
    """Return the last finished block, and cut off what was written after it; None where no block is finished."""
    had = Journal.read(journal, paths.journal)
    if had.settings is None or had.mark is None or (restart and had.settings != settings):
        return None
    check_settings(had.settings, settings)
    journal.truncate(had.n_bytes)
    return had.mark


def check_settings(had: Settings, now: Settings) -> None:
    """Require that an interrupted run had the settings of the one that is to continue it.

    Raises:
        ConfigError: One of them differs; the message names it.
    """
    for name in {**had, **now}:
        if had.get(name) != now.get(name):
            raise ConfigError(
                f"--resume: the interrupted run had {name} {had.get(name)!r}, this one has {now.get(name)!r}; give "
                "what it had, or --overwrite to begin again"
            )


def fingerprint_folder(folder: Path) -> str:
    """Return a fingerprint of a folder of weights, from names, sizes, and the ends of each file.

    Raises:
        DataError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(_PIECE))
                file.seek(max(_PIECE, size - _PIECE))
                digest.update(file.read(_PIECE))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check it and its permissions") from None
    return digest.hexdigest()[:16]


def _open_at(path: Path, size: int) -> BinaryIO:
    """Open a file for appending, truncated to a given size.

    Raises:
        DataError: it is shorter, or cannot be written.
    """
    try:
        file = open_appending(path)
    except OSError as error:
        raise unwritable(path, error) from None
    if (there := file.tell()) < size:
        file.close()
        raise DataError(f"{path}: {there} bytes are left of {size} finished ones; --overwrite begins again")
    file.truncate(size)
    file.seek(size)
    return file


def _move(source: Path, target: Path, *, keep: bool) -> None:
    """Move a file into place; an empty one is deleted, and so is an older file at that place."""
    if keep:
        source.replace(target)
    else:
        target.unlink(missing_ok=True)
        source.unlink()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _add(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def unwritable(path: Path, error: OSError) -> DataError:
    """Return the error for a file that cannot be written: because of its place, or because the disk is full."""
    if error.errno in _NOT_HERE:
        return DataError(f"{path}: cannot be written ({error.strerror}); choose another place")
    return DataError(
        f"{path}: cannot be written ({error.strerror}); what is finished is kept: make room and use --resume"
    )
