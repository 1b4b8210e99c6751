"""Signals that ask a process to end (Ctrl-C, SIGTERM, SIGUSR1): their effect, and the process's reply."""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, Self

from halspan.core.process import speaker

# batch systems can send SIGUSR1 some time before a job's limit; Windows does not have it
_NAMES = {
    getattr(signal, name): shown
    for name, shown in {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGUSR1": "SIGUSR1"}.items()
    if hasattr(signal, name)
}
_AGAIN_SECONDS = 1.0  # seconds; a second Ctrl-C comes later, while programs send a signal twice at once
_STDERR = 2


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

    def end(self, number: int = signal.SIGTERM) -> NoReturn:
        """Raise the signal that was recorded.

        Args:
            number: Number of the signal, if another process received it.

        Raises:
            Interrupted: Always.
        """
        self.number = self.number or number
        raise Interrupted(self.number)

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
            return
        self.end()


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
