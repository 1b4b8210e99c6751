"""Objects that are read a few ahead of the one that is needed, because a store answers late but many at a time."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from halspan.data.stores.paths import StorePath

_AT_ONCE = 8  # objects that are read together, and that may be in memory


class ReadAhead:
    """A reader of objects, which are asked for in a known order.

    Args:
        paths: The objects in this order; one that occurs again is read once.
        read: Function that reads an object; it is called in other threads.
    """

    def __init__(self, paths: Iterable[StorePath], read: Callable[[StorePath], bytes]) -> None:
        self._left = iter(dict.fromkeys(paths))
        self._read = read
        self._reading: dict[StorePath, Future[bytes]] = {}

    def read(self, path: StorePath) -> bytes:
        """Return the bytes of an object.

        Raises:
            HalspanError: It cannot be read.
        """
        while len(self._reading) < _AT_ONCE and (following := next(self._left, None)) is not None:
            self._reading[following] = _threads().submit(self._read, following)
        reading = self._reading.pop(path, None)
        return self._read(path) if reading is None else reading.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="halspan-store")
