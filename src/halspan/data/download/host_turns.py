"""Turns between hosts: the order of addresses in which no host is asked too often or delays the others."""

import heapq
import itertools
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
        n_failures: Number of failed requests so far.
    """

    url: str
    n_failures: int = 0
    host: str = field(init=False)

    def __post_init__(self) -> None:
        self.host = host_of(self.url)


@dataclass(slots=True)
class _Host:
    waiting: deque[Turn] = field(default_factory=deque)
    n_active: int = 0
    not_before: float = 0.0  # seconds on the monotonic clock
    queued: bool = False


class Turns:
    """A queue that hands out addresses to threads, host by host.

    Args:
        urls: Distinct addresses; those of one host are handed out in this order.
        per_host: Largest number of turns of one host at once.
    """

    def __init__(self, urls: Iterable[str], *, per_host: int) -> None:
        self._per_host = per_host
        self._changed = threading.Condition()
        self._hosts: dict[str, _Host] = {}
        self._line: list[tuple[float, int, str]] = []  # time at which a host may be asked, its number in line, its name
        self._numbers = itertools.count()
        self._n_left = 0
        for url in urls:
            turn = Turn(url)
            self._hosts.setdefault(turn.host, _Host()).waiting.append(turn)
            self._n_left += 1
        for name in self._hosts:
            self._queue(name)

    def take(self) -> Turn | None:
        """Wait for and return the next turn; None when all are settled or `stop` was called."""
        with self._changed:
            while self._n_left:
                seconds = self._line[0][0] - time.monotonic() if self._line else None
                if seconds is None or seconds > 0:
                    self._changed.wait(seconds)
                elif turn := self._next():
                    return turn
            return None

    def settle(self, turn: Turn) -> None:
        """Mark a turn as done."""
        with self._changed:
            self._n_left = max(0, self._n_left - 1)
            self._give_back(turn)

    def postpone(self, turn: Turn, seconds: float) -> None:
        """Return a turn to the queue, to be taken again later; its host is not asked until then."""
        with self._changed:
            host = self._hosts[turn.host]
            host.not_before = max(host.not_before, time.monotonic() + seconds)
            host.waiting.append(turn)
            self._give_back(turn)

    def stop(self) -> None:
        """Stop handing out turns."""
        with self._changed:
            self._n_left = 0
            self._changed.notify_all()

    def _give_back(self, turn: Turn) -> None:
        self._hosts[turn.host].n_active -= 1
        self._queue(turn.host)
        self._changed.notify_all()

    def _next(self) -> Turn | None:
        """Return a turn of the first host in line; None if that host asked for a longer wait in the meantime."""
        name = heapq.heappop(self._line)[2]
        host = self._hosts[name]
        host.queued = False
        turn = None
        if host.not_before <= time.monotonic():
            turn = host.waiting.popleft()
            host.n_active += 1
        self._queue(name)
        return turn

    def _queue(self, name: str) -> None:
        """Put a host in line, unless it has no turns to hand out or is already in line."""
        host = self._hosts[name]
        if host.waiting and not host.queued and host.n_active < self._per_host:
            host.queued = True
            heapq.heappush(self._line, (host.not_before, next(self._numbers), name))
