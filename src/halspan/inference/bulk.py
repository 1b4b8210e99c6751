"""Scoring of unlimited input: fixed blocks of records, in which images are shared; failures are counted."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from halspan.core.captions import Prediction
from halspan.core.errors import DataError, HalspanError, ModelError
from halspan.data.stores.access import read_bytes
from halspan.data.stores.ahead import ReadAhead
from halspan.data.stores.paths import StorePath
from halspan.data.streams.records import Item, ItemReader, Position, RawRecord, block_of
from halspan.inference.blocks import MOST_BYTES, Answered, Asked

Source = TypeVar("Source")
Read = TypeVar("Read")
REJECTED = "rejected"
SCORED = "scored"
SENTENCES = "sentences"
UNSCORED = "unscored sentences"
LEFT_OUT = "captions with annotation left out"
KEPT = "kept"
TOO_LIKELY = "dropped: a sentence above the limit"
NOT_JUDGED = "dropped: a sentence without a score"


class ScoreBlocks(Protocol):
    """A function that scores blocks of captions part by part, such as `Detector.score_blocks`."""

    def __call__(
        self, source: Iterable[Source], read: Callable[[Source], tuple[Read, Sequence[Asked]]]
    ) -> Generator[Answered[Read, Prediction], None, None]:
        """Score blocks, which `read` reads in another thread."""
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
    score: ScoreBlocks,
    reader: ItemReader,
    *,
    max_p_incorrect: float | None = None,
    has_scored: bool = False,
    on_scored: Callable[[int], None] | None = None,
) -> Generator[Block, None, None]:
    """Score records block by block; the results of a block depend only on its own records.

    Captions of one image share its encoding wherever they stand in a block. While the model computes, another thread
    checks, decodes and encodes what follows.

    An image that the detector cannot process, such as one that leaves no room in its window, is rejected with its
    captions. But if no caption has been scored before, the fault is the detector's, and an error is raised.

    Args:
        records: Records in order, from the beginning of a block.
        score: The detector's function.
        reader: Reader of captions from records.
        max_p_incorrect: Highest P(incorrect) in captions to keep; all of their sentences must be scored. None keeps
            all.
        has_scored: Whether the detector has scored a caption of an earlier block.
        on_scored: Function that is called with the number of captions that were scored together.

    Raises:
        ModelError: The detector has not been able to score any caption yet.
    """
    opened: _OpenBlock | None = None
    with closing(score(_divide(records), partial(_read, reader))) as parts:
        for part in parts:
            opened = opened or _OpenBlock(max_p_incorrect, has_scored=has_scored)
            opened.take(part.block, part.results)
            if on_scored is not None:
                on_scored(len(part.results))
            if part.is_last and part.block.is_last:
                block, opened = opened.close(part.block.position), None
                has_scored = has_scored or block.counts[SCORED] > 0
                yield block


@dataclass(frozen=True, slots=True)
class Portion:
    """Records of a block that are read together: all of it, or less where images inside records are large.

    Attributes:
        position: Position after the last record.
        is_last: Whether it is the last portion of its block.
        items: Captions to score.
        rejected: Records that could not be read, as JSON objects with their reasons.
    """

    position: Position
    is_last: bool
    items: list[Item] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)


def _divide(records: Iterable[RawRecord]) -> Iterator[tuple[list[RawRecord], bool]]:
    """Yield the records of each portion, and whether it is the last one of its block."""
    for _, block in groupby(records, key=lambda record: block_of(record.position.number)):
        together: list[RawRecord] = []
        n_bytes = 0
        for record in block:
            if together and n_bytes + record.n_bytes > MOST_BYTES:
                yield together, False
                together, n_bytes = [], 0
            together.append(record)
            n_bytes += record.n_bytes
        yield together, True


def _read(reader: ItemReader, records: tuple[Sequence[RawRecord], bool]) -> tuple[Portion, list[Asked]]:
    together, is_last = records
    portion = Portion(together[-1].position, is_last)
    for record in together:
        try:
            item = reader.read(record)
        except DataError as error:
            portion.rejected.append(record.reject(str(error)))
        else:  # without the content, which may hold the image once more
            portion.items.append(replace(item, source=replace(record, content=None)))
    ahead = ReadAhead((item.key for item in portion.items if isinstance(item.key, StorePath)), read_bytes)
    return portion, [Asked(item.caption, item.key, partial(item.load_image, ahead.read)) for item in portion.items]


class _OpenBlock:
    """A block in progress."""

    def __init__(self, max_p_incorrect: float | None, *, has_scored: bool) -> None:
        self._max_p_incorrect = max_p_incorrect
        self._has_scored = has_scored
        self._records: list[tuple[int, dict[str, Any]]] = []
        self._rejected: list[dict[str, Any]] = []
        self._left_out: list[tuple[int, str]] = []
        self._failed: ModelError | None = None
        self._counts: Counter[str] = Counter()

    def take(self, portion: Portion, results: Mapping[int, Prediction | HalspanError]) -> None:
        """Take results of a portion, and what was rejected when it was read."""
        self._rejected += portion.rejected
        portion.rejected.clear()
        for place, result in results.items():
            item = portion.items[place]
            if isinstance(result, HalspanError):
                self._rejected.append(item.source.reject(str(result)))
                self._failed = result if isinstance(result, ModelError) else self._failed
            else:
                self._add(item, result)

    def close(self, position: Position) -> Block:
        """Return the results, in the order of the records.

        Raises:
            ModelError: The detector has not been able to score any caption yet.
        """
        if self._failed is not None and not (self._has_scored or self._counts[SCORED]):
            raise self._failed
        if self._rejected:
            self._counts[REJECTED] = len(self._rejected)
        return Block(
            position=position,
            records=[record for _, record in sorted(self._records, key=itemgetter(0))],
            rejected=sorted(self._rejected, key=itemgetter("line")),
            counts=self._counts,
            left_out=[said for _, said in sorted(self._left_out)],
        )

    def _add(self, item: Item, prediction: Prediction) -> None:
        number = item.source.position.number
        if item.left_out:
            self._left_out.append((number, f"{number}: {'; '.join(item.left_out)}"))
            self._counts[LEFT_OUT] += 1
        if self._passes(prediction):
            self._records.append((number, prediction.to_record()))

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
