"""Answers in the order of the request, even where some of them fail."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing

from halspan.core import captions as core
from halspan.core.errors import HalspanError
from halspan.inference.blocks import Asked, divide
from halspan.inference.queries import Task
from halspan.inference.results import Prediction
from halspan.inference.scores import CaptionScores


class Answers:
    """Answers in the order of the request, for texts with and without sentences, and for items that failed.

    Args:
        tasks: Texts about images; an item that cannot be used is an error instead.
        threshold: Lowest P(incorrect) at which a sentence is called incorrect.
        are_errors_given: Whether errors take the place of answers. Otherwise no item after one that cannot be used is
            read, and the first error is raised after everything before it has been answered.
    """

    def __init__(self, tasks: Iterable[Task | HalspanError], *, threshold: float, are_errors_given: bool) -> None:
        self._tasks = tasks
        self._threshold = threshold
        self._are_errors_given = are_errors_given
        self._waiting: deque[Task | HalspanError] = deque()

    def blocks(self) -> Iterator[list[Task]]:
        """Yield blocks of texts; those with sentences have to be scored."""
        for block in divide(self._read(), _measure):
            self._waiting.extend(block)
            yield [task for task in block if isinstance(task, Task)]

    def _read(self) -> Iterator[Task | HalspanError]:
        for task in self._tasks:
            yield task
            if isinstance(task, HalspanError) and not self._are_errors_given:
                return

    def settle(
        self,
        results: Generator[CaptionScores | HalspanError, None, None],
        decide: Callable[[CaptionScores], core.Prediction],
    ) -> Iterator[Prediction | HalspanError]:
        """Yield an answer for each text.

        Args:
            results: Scores or errors of the texts with sentences of `blocks`, in order.
            decide: Function that turns scores into a prediction.
        """
        with closing(results):
            for result in results:
                yield from self._answer_others()
                task = self._waiting.popleft()
                if isinstance(result, HalspanError):
                    name = task.name if isinstance(task, Task) else ""
                    yield self._fail(type(result)(f"{name}{result}"))
                else:
                    yield Prediction.of(decide(result), threshold=self._threshold)
        yield from self._answer_others()

    def _answer_others(self) -> Iterator[Prediction | HalspanError]:
        """Answer the items before the first one that has to be scored."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, Task) and first.caption is not None:
                return
            self._waiting.popleft()
            yield first.unscored() if isinstance(first, Task) else self._fail(first)

    def _fail(self, error: HalspanError) -> HalspanError:
        if not self._are_errors_given:
            raise error
        return error


def ask(block: Sequence[Task]) -> tuple[None, list[Asked]]:
    """Return what is to be scored of a block."""
    return None, [Asked(task.caption, task.key, task.load_image) for task in block if task.caption is not None]


def _measure(task: Task | HalspanError) -> tuple[int, int]:
    return 1, task.n_bytes if isinstance(task, Task) else 0
