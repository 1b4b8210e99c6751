"""The manifest of a download: the outcome of each address, which survives kills and restarts."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from halspan.core.errors import DataError
from halspan.core.files import open_appending
from halspan.core.text.printable import printable
from halspan.data.download.web import State

FILE_NAME = "manifest.jsonl"
LOCK = ".manifest.lock"
_MOST_BYTES = 2**30  # of a manifest; a line has a few hundred


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of one address.

    Attributes:
        url: The address.
        state: "there", "dead" (its server says so), "refused" (the answer is not acceptable) or "unreachable" (no
            answer yet).
        reason: Reason why it is not there, with the same words for all similar cases.
        detail: Value or event that was seen.
        status: HTTP status, where that is the reason.
        file: File name in the manifest's folder.
        sha256: SHA-256 of the file's content, in hexadecimal.
        size: Size of the file, in bytes.
    """

    url: str
    state: State
    reason: str | None = None
    detail: str | None = None
    status: int | None = None
    file: str | None = None
    sha256: str | None = None
    size: int | None = None


_OUTCOMES = TypeAdapter(Outcome)


class Manifest:
    """Outcomes by address, in a JSON Lines file that only grows; the last line about an address is valid.

    This is a context manager. A line that is lost costs nothing: its file is found again by its name.

    Args:
        folder: Folder of the manifest and its files, created if necessary. Incomplete files of a killed process are
            removed.

    Raises:
        DataError: The folder cannot be created or written, or another process has its manifest open.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        _check_folder(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._keep_others_out()
            self._file = open_appending(self.path, buffering=0)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be opened ({error.strerror}); choose another folder") from None
        for partial in folder.glob(".*.tmp"):
            partial.unlink()
        content = self._read_all()
        if content and not content.endswith(b"\n"):  # a process was killed within a line
            self._file.write(b"\n")
        outcomes = (_read(line) for line in content.splitlines())
        self.outcomes = {outcome.url: outcome for outcome in outcomes if outcome is not None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def add(self, outcome: Outcome) -> None:
        """Write an outcome in one step."""
        record = {key: value for key, value in asdict(outcome).items() if value is not None}
        self._file.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
        self.outcomes[outcome.url] = outcome

    def is_settled(self, outcome: Outcome) -> bool:
        """Return whether an address need not be requested: its file exists with its recorded size, or it was denied."""
        if outcome.state != "there" or outcome.file is None:
            return outcome.state in ("dead", "refused")
        path = self.folder / outcome.file
        return path.is_file() and path.stat().st_size == outcome.size

    def _read_all(self) -> bytes:
        size = os.fstat(self._file.fileno()).st_size
        if size > _MOST_BYTES:
            raise DataError(f"{self.path}: has {size:,} bytes, more than the {_MOST_BYTES:,} that are read; remove it")
        self._file.seek(0)
        return self._file.read(size)

    def _keep_others_out(self) -> None:
        self._lock = FileLock(self.folder / LOCK, blocking=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise DataError(f"{self.folder}: another download is writing to it; wait until it is done") from None


def _check_folder(folder: Path) -> None:
    """Require that a folder lies where its name says; files are made, and half-written ones removed, in it."""
    if folder.is_symlink():
        raise DataError(
            f"{folder}: is a link to {os.path.realpath(folder)}, and downloads go below the folder of the images; "
            "remove the link, or give another folder (--to)"
        )


def _read(line: bytes) -> Outcome | None:
    """Read a line; None where it was cut off or is not one of ours: the corpus may have come with it."""
    try:
        outcome = _OUTCOMES.validate_json(line)
    except ValueError:
        return None
    texts = (outcome.reason, outcome.detail, outcome.file)
    is_plain = all(text is None or printable(text) == text for text in texts)
    return outcome if is_plain and outcome.file in (None, Path(outcome.file or "").name) else None
