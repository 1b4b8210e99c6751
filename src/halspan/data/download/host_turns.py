"""Turns between hosts: the order of addresses in which no host is asked too often or delays the others."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from halspan.data.download.addresses import host_of


@dataclass(slots=True)
class Turn:
    """One address to fetch.

    Attributes:
        url: The address.
        host: Its host.
        n_failures: Number of failed requests so far.
    """

    url: str
    host: str
    n_failures: int = 0


@dataclass(slots=True)
class _Host:
    waiting: deque[Turn] = field(default_factory=deque)
    n_active: int = 0
    not_before: float = 0.0  # seconds on the monotonic clock


class Turns:
    """A queue that hands out addresses to threads, host by host.

    Args:
        urls: Distinct addresses; those of one host are handed out in this order.
        per_host: Largest number of turns of one host at once.
    """

    def __init__(self, urls: Iterable[str], *, per_host: int) -> None:
        self._per_host = per_host
        self._changed = threading.Condition()
        self._hosts: dict[str, _Host] = {}  # the one that was asked last is the last
        turns = [Turn(url, host_of(url)) for url in urls]
        for turn in turns:
            self._hosts.setdefault(turn.host, _Host()).waiting.append(turn)
        self._n_left = len(turns)

    def take(self) -> Turn | None:
        """Wait for and return the next turn; None when all are settled or `stop` was called."""
        with self._changed:
            while self._n_left:
                if (turn := self._next()) is not None:
                    return turn
                moments = [host.not_before for host in self._hosts.values() if self._is_free(host)]
                self._changed.wait(max(0.0, min(moments) - time.monotonic()) if moments else None)
            return None

    def settle(self, turn: Turn) -> None:
        """Mark a turn as done."""
        with self._changed:
            self._n_left = max(0, self._n_left - 1)
            self._hosts[turn.host].n_active -= 1
            self._changed.notify_all()

    def postpone(self, turn: Turn, seconds: float) -> None:
        """Return a turn to the queue, to be taken again later; its host is not asked until then."""
        with self._changed:
            host = self._hosts[turn.host]
            host.not_before = max(host.not_before, time.monotonic() + seconds)
            host.n_active -= 1
            host.waiting.append(turn)
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop handing out turns."""
        with self._changed:
            self._n_left = 0
            self._changed.notify_all()

    def _next(self) -> Turn | None:
        now = time.monotonic()
        for name, host in self._hosts.items():
            if self._is_free(host) and host.not_before <= now:
                self._hosts[name] = self._hosts.pop(name)
                host.n_active += 1
                return host.waiting.popleft()
        return None

    def _is_free(self, host: _Host) -> bool:
        return bool(host.waiting) and host.n_active < self._per_host
