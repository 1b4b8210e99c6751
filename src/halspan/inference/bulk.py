"""Scoring of unlimited input: fixed blocks of records, images shared by neighbors, failures counted."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from halspan.core.captions import Prediction
from halspan.core.errors import DataError, ModelError
from halspan.data.rows import Row
from halspan.data.streams.records import Item, ItemReader, Position, RawRecord, block_of

_MOST_DECODED = 64 * 2**20  # bytes of images that are decoded at once; a single image may be larger
REJECTED = "rejected"
SCORED = "scored"
SENTENCES = "sentences"
UNSCORED = "unscored sentences"
LEFT_OUT = "captions with annotation left out"
KEPT = "kept"
TOO_LIKELY = "dropped: a sentence above the limit"
NOT_JUDGED = "dropped: a sentence without a score"


class ScoreRows(Protocol):
    """A function that scores rows: it returns one prediction per caption, in order."""

    def __call__(self, rows: Sequence[Row], *, read_image: Callable[[Path], Image]) -> Iterable[Prediction]:
        """Score rows; `read_image` returns the image of a row."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The results of one block of records.

    Attributes:
        position: Position after its last record.
        records: Predictions to keep, as JSON objects.
        rejected: Records that could not be used, as JSON objects with their reasons, in order.
        counts: Counts of the results.
        left_out: Captions with annotation that was left out, with line and reason, in order.
    """

    position: Position
    records: Sequence[dict[str, Any]]
    rejected: Sequence[dict[str, Any]]
    counts: Counter[str]
    left_out: Sequence[str] = ()


def score_blocks(
    records: Iterable[RawRecord],
    score: ScoreRows,
    reader: ItemReader,
    *,
    max_p_incorrect: float | None = None,
    has_scored: bool = False,
) -> Iterator[Block]:
    """Score records block by block; the results of a block depend only on its own records.

    An image that the detector cannot process, such as one that leaves no room in its window, is rejected with its
    captions. But if no caption has been scored before, the fault is the detector's, and an error is raised.

    Args:
        records: Records in order, from the beginning of a block.
        score: The detector's function.
        reader: Reader of captions from records.
        max_p_incorrect: Highest P(incorrect) in captions to keep; all of their sentences must be scored. None keeps
            all.
        has_scored: Whether the detector has scored a caption of an earlier block.

    Raises:
        ModelError: The detector has not been able to score any caption yet.
    """
    for _, group in groupby(records, key=lambda record: block_of(record.position.number)):
        block = _OpenBlock(score, reader, max_p_incorrect, has_scored=has_scored).run(group)
        has_scored = has_scored or block.counts[SCORED] > 0
        yield block


class _OpenBlock:
    """A block in progress: images wait until there are enough to score, and are dropped afterwards."""

    def __init__(
        self, score: ScoreRows, reader: ItemReader, max_p_incorrect: float | None, *, has_scored: bool
    ) -> None:
        self._score = score
        self._reader = reader
        self._max_p_incorrect = max_p_incorrect
        self._has_scored = has_scored
        self._groups: list[tuple[Path, list[Item]]] = []
        self._images: dict[Path, Image] = {}
        self._unreadable: dict[Path, str] = {}
        self._records: list[dict[str, Any]] = []
        self._rejected: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._left_out: list[str] = []

    def run(self, records: Iterable[RawRecord]) -> Block:
        position = Position()
        for record in records:
            position = record.position
            try:
                self._add(self._reader.read(record))
            except DataError as error:
                self._reject(record, str(error))
        self._flush()
        rejected = sorted(self._rejected, key=lambda record: record["line"])
        return Block(
            position=position,
            records=self._records,
            rejected=rejected,
            counts=self._counts,
            left_out=self._left_out,
        )

    def _reject(self, record: RawRecord, reason: str) -> None:
        self._rejected.append(record.reject(reason))
        self._counts[REJECTED] += 1

    def _add(self, item: Item) -> None:
        if item.key not in self._images:
            self._load(item)
        if not self._groups or self._groups[-1][0] != item.key:
            self._groups.append((item.key, []))
        self._groups[-1][1].append(item)
        if item.left_out:
            self._left_out.append(f"{item.source.position.number}: {'; '.join(item.left_out)}")
            self._counts[LEFT_OUT] += 1

    def _load(self, item: Item) -> None:
        if item.key in self._unreadable:
            raise DataError(self._unreadable[item.key])
        try:
            image = item.load_image()
        except DataError as error:
            self._unreadable[item.key] = str(error)
            raise
        if sum(map(_n_bytes, self._images.values())) + _n_bytes(image) > _MOST_DECODED:
            self._flush()
        self._images[item.key] = image

    def _flush(self) -> None:
        try:
            predictions = self._predict(self._groups)
        except ModelError:
            self._flush_apart()
        else:
            self._take(predictions)
        self._groups.clear()
        self._images.clear()

    def _flush_apart(self) -> None:
        """Score each image separately, and reject those that fail."""
        for group in self._groups:
            try:
                self._take(self._predict([group]))
            except ModelError as error:
                failed = error
                for item in group[1]:
                    self._reject(item.source, str(error))
        if not (self._has_scored or self._counts[SCORED]):
            raise failed

    def _predict(self, groups: Sequence[tuple[Path, Sequence[Item]]]) -> list[Prediction]:
        rows = [Row(key, tuple(item.caption for item in items)) for key, items in groups]
        return list(self._score(rows, read_image=self._images.__getitem__)) if rows else []

    def _take(self, predictions: Iterable[Prediction]) -> None:
        for prediction in predictions:
            if self._passes(prediction):
                self._records.append(prediction.to_record())

    def _passes(self, prediction: Prediction) -> bool:
        scores = [sentence.p_incorrect for sentence in prediction.sentences]
        known = [score for score in scores if score is not None]
        self._counts[SCORED] += 1
        self._counts[SENTENCES] += len(scores)
        self._counts[UNSCORED] += len(scores) - len(known)
        if self._max_p_incorrect is not None:
            if max(known, default=0.0) > self._max_p_incorrect:
                self._counts[TOO_LIKELY] += 1
                return False
            if len(known) < len(scores):
                self._counts[NOT_JUDGED] += 1
                return False
        self._counts[KEPT] += 1
        return True


def _n_bytes(image: Image) -> int:
    return image.width * image.height * len(image.getbands())
