"""Predictions in the order of the request, even where some of them fail."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from PIL.Image import Image

from halspan.core import captions as core
from halspan.core.errors import HalspanError, ModelError
from halspan.inference.queries import Task
from halspan.inference.results import Prediction


class Answers:
    """Predictions in the order of the request, together with empty texts and items that failed.

    Args:
        groups: Groups of texts about one image; an item that cannot be used is an error instead.
        threshold: Lowest P(incorrect) at which a sentence is called incorrect.
        are_errors_given: Whether errors take the place of answers. Otherwise nothing after the first error is read,
            and it is raised after everything before it has been answered.
    """

    def __init__(
        self, groups: Iterable[Sequence[Task] | HalspanError], *, threshold: float, are_errors_given: bool
    ) -> None:
        self._groups = groups
        self._threshold = threshold
        self._are_errors_given = are_errors_given
        self._has_failed = False
        self._waiting: deque[Task | HalspanError] = deque()

    def rows(self) -> Iterator[tuple[Image, Sequence[core.Caption]]]:
        """Return images with the captions to score."""
        for group in self._groups:
            if isinstance(group, HalspanError):
                self._has_failed = True
                self._waiting.append(group)
            else:
                self._waiting.extend(group)
                if captions := [task.caption for task in group if task.caption is not None]:
                    yield group[0].image, captions
            if self._has_failed and not self._are_errors_given:
                return

    def fail(self, captions: Sequence[core.Caption], error: ModelError) -> None:
        """Record that captions of a row cannot be scored."""
        self._has_failed = True
        failed = {id(caption) for caption in captions}
        for place, task in enumerate(self._waiting):
            if isinstance(task, Task) and id(task.caption) in failed:
                self._waiting[place] = ModelError(f"{task.name}{error}")

    def settle(self, predictions: Iterable[core.Prediction]) -> Iterator[Prediction | HalspanError]:
        """Yield an answer for each text.

        Args:
            predictions: Predictions of the captions of `rows` that did not fail, in order.
        """
        for prediction in predictions:
            yield from self._take_unscored(prediction.caption)
            self._waiting.popleft()
            yield Prediction.of(prediction, threshold=self._threshold)
        yield from self._take_unscored(None)

    def _take_unscored(self, until: core.Caption | None) -> Iterator[Prediction | HalspanError]:
        """Answer the items before a caption; None answers all."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, HalspanError) and not self._are_errors_given:
                raise first
            if isinstance(first, Task) and until is not None and first.caption is until:
                return
            self._waiting.popleft()
            yield first.unscored() if isinstance(first, Task) else first
