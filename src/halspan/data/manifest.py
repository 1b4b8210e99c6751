"""The manifest of a download: what became of each address, kept through kills and restarts."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from halspan.core.errors import DataError
from halspan.data.web import State

FILE_NAME = "manifest.jsonl"
LOCK = ".manifest.lock"
_TEXT = 300  # characters of a server's words
_SYNC_EVERY = 50  # lines; a power cut costs these, a killed process none


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one address.

    Attributes:
        url: the address.
        state: "there", "dead" (its server says so, or gave no answer in two runs), "refused" (it gives what is not to
            be taken) or "unreachable" (no answer yet).
        reason: why it is not there, in the same words for all cases alike.
        detail: what was seen.
        status: HTTP status, where that is the reason.
        file: file name, beside the manifest.
        sha256: of the file's content, in hexadecimal.
        size: of the file, bytes.
    """

    url: str
    state: State
    reason: str | None = None
    detail: str | None = None
    status: int | None = None
    file: str | None = None
    sha256: str | None = None
    size: int | None = None


class Manifest:
    """Outcomes by address, read from a JSON Lines file and added to it; the last line about an address holds.

    A context manager; what was added is on the disk when it ends.

    Args:
        folder: where the manifest and its files lie; made if need be. What a killed process left half-written there
            is swept up.

    Raises:
        DataError: the folder cannot be made or written, or another process has its manifest open.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._keep_others_out()
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be opened ({error.strerror}); choose another folder") from None
        for partial in folder.glob(".*.tmp"):
            partial.unlink()
        self._file.seek(0)
        content = self._file.read()
        self._unsynced = 0
        self._needs_newline = bool(content) and not content.endswith(b"\n")  # killed in the middle of a line
        outcomes = (_read(line) for line in content.splitlines())
        self.outcomes = {outcome.url: outcome for outcome in outcomes if outcome is not None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sync()
        self._file.close()
        self._lock.release()

    def add(self, outcome: Outcome) -> None:
        """Write an outcome, in one step."""
        record = {key: value for key, value in asdict(outcome).items() if value is not None}
        line = json.dumps(record, ensure_ascii=True).encode() + b"\n"
        self._file.write(b"\n" + line if self._needs_newline else line)
        self._needs_newline = False
        self.outcomes[outcome.url] = outcome
        self._unsynced += 1
        if self._unsynced >= _SYNC_EVERY:
            self._sync()

    def has_file(self, outcome: Outcome) -> bool:
        """Whether the file of an outcome is still there, with the size it had."""
        if outcome.state != "there" or outcome.file is None:
            return False
        path = self.folder / outcome.file
        return path.is_file() and path.stat().st_size == outcome.size

    def _keep_others_out(self) -> None:
        self._lock = FileLock(self.folder / LOCK, blocking=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise DataError(f"{self.folder}: another download is writing to it; wait until it is done") from None

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._unsynced = 0


def printable(text: str) -> str:
    """A server's words, short and without what would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:_TEXT])


def _read(line: bytes) -> Outcome | None:
    """Read a line; None where it was cut off or is not one of ours."""
    try:
        return Outcome(**json.loads(line))
    except (ValueError, TypeError):
        return None
