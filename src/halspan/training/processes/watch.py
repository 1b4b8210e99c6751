"""A watch over processes that train together: where one has died, the others do not wait for it without end."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from torch.distributed import Store  # type: ignore[attr-defined]  # public in its documentation

from halspan.core.process import process_count, process_rank, speaker

BEAT_SECONDS = 5.0
"""Seconds between two signs of life."""
MISSED_BEATS = 6
"""Signs of life that a process may miss: half a minute. They are counted, so a job that is stopped as a whole lives."""
GRACE_SECONDS = 10.0
"""Seconds in which this process may end in order, after it was seen that another one has ended."""

_ENDED, _DONE = "ended", "done"
_SILENT = f"has given no sign of life for {MISSED_BEATS * BEAT_SECONDS:.0f} s"
_STDERR = 2


class Watch:
    """Threads that leave signs of life in a store, and end this process where those of another one stay away.

    The main thread may be waiting for the other process inside torch, where no exception reaches it. One thread talks
    to the store, and may wait without end for a machine that is lost; the other one sees that, too.

    Args:
        connect: Function that opens the store, for one thread alone.
        to_go_on: Command that continues the work.
    """

    def __init__(self, connect: Callable[[], Store], *, to_go_on: str) -> None:
        self._store = connect()
        self._to_go_on = to_go_on
        self._rank = process_rank()
        self._last: dict[int, str] = {rank: "" for rank in range(process_count()) if rank != self._rank}
        self._missed = dict.fromkeys(self._last, 0)
        self._stopped = threading.Event()
        self._end = _DONE
        self._beats = 0
        self._gone: str | None = None
        self._talking = threading.Thread(target=self._talk, daemon=True, name="halspan-signs-of-life")

    def start(self) -> None:
        """Begin; all processes are there."""
        self._store.set(f"who/{self._rank}", f"{socket.gethostname()}, process id {os.getpid()}")
        self._talking.start()
        threading.Thread(target=self._watch, daemon=True, name="halspan-watch").start()

    def stop(self, *, has_failed: bool) -> None:
        """End the watch, and tell the others.

        Args:
            has_failed: Whether this process ends before its work is done, so that the others have to end, too.
        """
        self._end = _ENDED if has_failed else _DONE
        self._stopped.set()
        self._talking.join(timeout=BEAT_SECONDS)

    def _watch(self) -> None:
        seen, missed = 0, 0
        while not self._stopped.wait(BEAT_SECONDS):
            missed = missed + 1 if self._beats == seen else 0
            seen = self._beats
            if missed >= MISSED_BEATS:
                self._gone = self._gone or f"the first process {_SILENT}"
            if self._gone is not None and not self._stopped.wait(GRACE_SECONDS):
                self._leave(self._gone)

    def _talk(self) -> None:
        while self._gone is None and not self._stopped.wait(BEAT_SECONDS):
            self._beats += 1
            try:
                self._gone = self._beat()
            except RuntimeError:
                self._gone = "the first process has ended"
        self._stopped.wait()
        with suppress(RuntimeError):
            self._store.set(f"beat/{self._rank}", self._end)

    def _beat(self) -> str | None:
        """Leave a sign of life; return which process has ended, if one has."""
        self._store.set(f"beat/{self._rank}", str(self._beats))
        for rank, last in self._last.items():
            key = f"beat/{rank}"
            beat = self._store.get(key).decode() if self._store.check([key]) else ""
            self._missed[rank] = 0 if beat != last or beat == _DONE else self._missed[rank] + 1
            self._last[rank] = beat
            if beat == _ENDED:
                return f"{self._name(rank)} has ended"
            if self._missed[rank] >= MISSED_BEATS:
                return f"{self._name(rank)} {_SILENT}"
        return None

    def _name(self, rank: int) -> str:
        return f"process {rank + 1} ({self._store.get(f'who/{rank}').decode()})"

    def _leave(self, reason: str) -> None:
        line = f"\n{speaker()}{reason}, so this one ends, too; {self._to_go_on} continues from last.ckpt\n"
        with suppress(OSError):
            os.write(_STDERR, line.encode())
        os._exit(1)
