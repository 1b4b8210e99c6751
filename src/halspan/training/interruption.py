"""Signals that ask a process to end (Ctrl-C, SIGTERM, SIGUSR1): what they do, and how a process says that they did."""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, Self

from halspan.training.rundir import is_first_process

# SIGUSR1 is what batch systems are asked to send some time before a job's limit; Windows has none
_NAMES = {
    getattr(signal, name): shown
    for name, shown in {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGUSR1": "SIGUSR1"}.items()
    if hasattr(signal, name)
}
_AGAIN_SECONDS = 1.0  # a second Ctrl-C comes later than this; other programs send a signal twice at once
_STDERR = 2


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end; what handles Ctrl-C handles this.

    Args:
        number: of the signal.

    Attributes:
        number: of the signal.
        how_to_go_on: what to type to go on, where that is known.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {_NAMES[signal.Signals(number)]}")
        self.number = number
        self.how_to_go_on = "the same command starts again"

    @property
    def status(self) -> int:
        """The exit status that a shell gives a program which this signal ended."""
        return 128 + self.number


class Signals:
    """Takes the signals that ask this process to end, while its block lasts.

    A signal raises `Interrupted`, once: what cleans up then is not disturbed. After `wait` signals are noted instead,
    and whoever waits calls `end`. A second Ctrl-C raises in either case.

    Attributes:
        number: of the first signal that came; None if there was none.
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
        """Note signals from now on; handlers that were set meanwhile are replaced."""
        self._waits = True
        self._take()

    def end(self, number: int = signal.SIGTERM) -> NoReturn:
        """Raise what was noted.

        Args:
            number: of the signal, if it was another process that noted one.

        Raises:
            Interrupted: always.
        """
        self.number = self.number or number
        raise Interrupted(self.number)

    def _take(self) -> dict[signal.Signals, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}  # only the main thread may
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
    """Ignore in a process that reads data what asks to end, which reaches all processes of a terminal or a job.

    The training process ends its readers when its step is done.
    """
    for number in _NAMES:
        signal.signal(number, signal.SIG_IGN)


def _say(line: str) -> None:
    """Write a line without any lock or buffer, since a handler may run in the middle of another line."""
    if is_first_process():
        with suppress(OSError):
            os.write(_STDERR, f"\n{line}\n".encode())
