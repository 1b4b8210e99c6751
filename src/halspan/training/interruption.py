"""Signals that ask a process to end (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2): their effect, and the process's reply."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, Self

from halspan.core.process import speaker

# Batch systems can send SIGUSR1 or SIGUSR2 some time before a job's limit, submitit the latter; Windows has neither.
# Of several that came, the later in this order counts: submitit puts a job back on SIGUSR2 alone.
_NAMES = {
    getattr(signal, name): shown
    for name, shown in {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGUSR1": "SIGUSR1", "SIGUSR2": "SIGUSR2"}.items()
    if hasattr(signal, name)
}
_AGAIN_SECONDS = 1.0  # seconds; a second Ctrl-C comes later, while programs send a signal twice at once
_STDERR = 2
_ORDER = list(_NAMES)


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end; code that handles Ctrl-C handles this exception, too.

    Args:
        number: Number of the signal.

    Attributes:
        number: Number of the signal.
        how_to_go_on: Command that continues, where it is known.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {_NAMES[signal.Signals(number)]}")
        self.number = number
        self.how_to_go_on = "the same command starts again"

    @property
    def status(self) -> int:
        """Return the exit status that a shell reports for a program ended by this signal."""
        return 128 + self.number


class Signals:
    """Context manager that handles the signals that ask this process to end.

    A signal raises `Interrupted` once, so that clean-up is not disturbed. After `wait`, signals are only recorded, and
    the caller raises them with `end`. A second Ctrl-C raises in either case.

    Attributes:
        number: Number of the first signal that came; None if there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._waits = False
        self._time = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = self._take()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> None:
        """Record signals from now on instead of raising them; restores handlers that others have replaced."""
        self._waits = True
        self._take()

    def end(self) -> NoReturn:
        """Raise the signal that was recorded.

        Raises:
            Interrupted: Always.
        """
        raise Interrupted(signal.SIGTERM if self.number is None else self.number)

    def _take(self) -> dict[signal.Signals, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}  # only the main thread may set handlers
        return {number: signal.signal(number, self._handle) for number in _NAMES}

    def _handle(self, number: int, _: FrameType | None) -> None:
        is_first, seconds = self.number is None, time.monotonic() - self._time
        if is_first:
            self.number, self._time = number, time.monotonic()
            if self._waits:
                _say(f"{_NAMES[signal.Signals(number)]}: training ends after this step")
                return
        elif number != signal.SIGINT or seconds < _AGAIN_SECONDS:
            self.number = max(self.number or number, number, key=_ORDER.index)
            return
        self.end()

    @property
    def flags(self) -> list[bool]:
        """Return for each signal, in a fixed order, whether it is the one that counts."""
        return [number == self.number for number in _ORDER]

    def take_flags(self, flags: Sequence[bool]) -> bool:
        """Count the signal of any process, by the `flags` of all; return whether one came."""
        came = [number for number, flag in zip(_ORDER, flags, strict=True) if flag]
        self.number = came[-1] if came else self.number
        return bool(came)


def leave_signals_to_parent(_: int) -> None:
    """Ignore, in a process that reads data, the signals that a terminal or a job sends to all processes.

    The training process ends its readers at the end of its step.
    """
    for number in _NAMES:
        signal.signal(number, signal.SIG_IGN)


def _say(line: str) -> None:
    """Write a line without any lock or buffer, because a handler may run in the middle of another line."""
    with suppress(OSError):
        os.write(_STDERR, f"\n{speaker()}{line}\n".encode())
