"""Download of a corpus's images: many at once, each checked; an interrupted download continues."""

import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halspan.core.errors import DataError
from halspan.core.files import replacing
from halspan.core.text.printable import printable
from halspan.data.download.addresses import DOWNLOADS, downloaded_file
from halspan.data.download.host_turns import Turn, Turns
from halspan.data.download.manifest import Manifest, Outcome
from halspan.data.download.web import Client, FetchError, Limits
from halspan.data.images import check_image, content_hash

_TEXT = 300  # characters of a server's words
THREAD = "halspan download"  # name of the downloading threads
_MOST_WAIT = 60.0  # seconds that a host may ask for (Retry-After); beyond it, it is left for another run
_JOIN_SECONDS = 5.0  # time for threads to end; only the system's resolver can delay one longer


@dataclass(frozen=True, kw_only=True)
class Downloader:
    """Downloader of images into `images/downloaded/`, where the readers of corpora look for them.

    A file gets its final name only after it has been decoded to the last pixel, so no file is incomplete. The outcome
    of each address is in `images/downloaded/manifest.jsonl`; an address that is settled there is not requested again.
    Without the manifest, files that are there are taken over, and everything else is requested again.

    Attributes:
        images: Folder that image paths start from.
        limits: Limits of each download.
        connections: Number of simultaneous downloads.
        per_host: Number of simultaneous downloads from one host.
        retries: Number of further tries after a broken connection, a time-out, or status 429 or 5xx.
        back_off_seconds: Pause for a host after its first failure, in seconds; doubled after each further failure, and
            varied at random by half.
        allow_loopback: Whether connections to this machine are allowed, for test servers.
    """

    images: Path
    limits: Limits = field(default_factory=Limits)
    connections: int = 16
    per_host: int = 4
    retries: int = 3
    back_off_seconds: float = 1.0
    allow_loopback: bool = False

    def run(self, urls: Iterable[str]) -> Generator[Outcome]:
        """Fetch addresses, each once.

        Closing the iterator, or an exception while it waits, ends all downloads; finished files stay.

        Yields:
            The outcome of each address, as soon as it is known; those settled in earlier runs come first.

        Raises:
            DataError: The folder cannot be written, or another download into it is running.
        """
        with Manifest(self.images / DOWNLOADS) as manifest:
            wanted = []
            for url in dict.fromkeys(urls):
                outcome = manifest.outcomes.get(url)
                if outcome is not None and manifest.is_settled(outcome):
                    yield outcome
                else:
                    wanted.append(url)
            with closing(self._fetch_all(wanted)) as outcomes:
                for outcome in outcomes:
                    manifest.add(outcome)
                    yield outcome

    def _fetch_all(self, urls: list[str]) -> Generator[Outcome]:
        turns = Turns(urls, per_host=self.per_host)
        client = Client(self.limits, allow_loopback=self.allow_loopback)
        done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        worker = _Worker(downloader=self, client=client, turns=turns, report=done.put)
        n_threads = min(self.connections, len(urls))
        threads = [threading.Thread(target=worker.work, name=THREAD, daemon=True) for _ in range(n_threads)]
        for thread in threads:
            thread.start()
        try:
            for _ in urls:
                outcome = done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        finally:
            turns.stop()
            client.close()
            end = time.monotonic() + _JOIN_SECONDS
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))


@dataclass(kw_only=True)
class _Worker:
    """The loop of each thread: take a turn, fetch, check, report."""

    downloader: Downloader
    client: Client
    turns: Turns
    report: Callable[[Outcome | BaseException], Any]
    # One image is decoded at a time: images may be large, and Pillow's warnings are a setting of the whole process.
    decoding: threading.Lock = field(default_factory=threading.Lock)

    def work(self) -> None:
        try:
            while turn := self.turns.take():
                self._serve(turn)
        except BaseException as error:  # for example, the folder cannot be written; the consumer raises it
            self.report(error)

    def _serve(self, turn: Turn) -> None:
        try:
            outcome = self._fetch(turn.url)
        except FetchError as error:
            seconds = self._seconds_to_wait(turn, error)
            if seconds is not None:
                turn.n_failures += 1
                self.turns.postpone(turn, seconds)
                return
            outcome = _outcome_of(turn.url, error)
        self.turns.settle(turn)
        self.report(outcome)

    def _fetch(self, url: str) -> Outcome:
        path = self.downloader.images / downloaded_file(url)
        if not self._is_sound(path):
            try:
                with replacing(path) as partial:
                    with partial.open("wb") as file:
                        type_ = self.client.fetch(url, file)
                    self._check(partial, type_)
            except OSError as error:
                raise DataError(f"{path}: cannot be written ({error.strerror}); make room or choose another") from None
        return Outcome(url=url, state="there", file=path.name, sha256=content_hash(path), size=path.stat().st_size)

    def _is_sound(self, path: Path) -> bool:
        """Return whether the file is complete; a killed run may have left it without a line in the manifest."""
        try:
            self._check(path, "")
        except FetchError:
            return False
        return True

    def _check(self, path: Path, type_: str) -> None:
        try:
            with self.decoding:
                check_image(path)
        except DataError as error:
            message = str(error).removeprefix(f"image {path}: ")
            reason = message.partition(";")[0].partition(" (")[0]
            said = f" but {type_}" if type_ and not type_.startswith("image/") else ""
            raise FetchError("refused", printable(reason + said)[:_TEXT], message) from None

    def _seconds_to_wait(self, turn: Turn, error: FetchError) -> float | None:
        """Return the time to wait before the next try, in seconds; None if this was the last try."""
        downloader, asked = self.downloader, error.wait_seconds or 0.0
        if not error.retry or turn.n_failures >= downloader.retries or asked > _MOST_WAIT:
            return None
        doubled = downloader.back_off_seconds * 2.0**turn.n_failures
        return max(asked, doubled * random.uniform(0.5, 1.5))


def _outcome_of(url: str, error: FetchError) -> Outcome:
    return Outcome(
        url=url,
        state=error.state,
        reason=error.reason,
        detail=printable(error.detail)[:_TEXT] or None,
        status=error.status,
    )
