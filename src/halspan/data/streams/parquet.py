"""Parquet: captions read a few rows at a time, and predictions written."""

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from halspan.core.errors import ConfigError, DataError
from halspan.data.readers.jsonl import MOST_LINE_BYTES
from halspan.data.streams.records import Position, RawRecord, Shard, scan, shorten

logger = logging.getLogger(__name__)

_COLUMNS = ("id", "image", "image_bytes", "image_base64", "generator", "direction", "text", "sentences", "spans")
_IGNORED = ("predicted", "threshold")
_ROWS_READ = 64  # rows read at once; they may contain images
_ROWS_WRITTEN = 2048  # rows in a group
_BUFFER = 2**20  # bytes


class ParquetFile:
    """A file with one caption per row, in the columns of the canonical records; others are not read.

    `image` is a path, or, as in Hugging Face datasets, a struct of `bytes` and `path`.

    Args:
        path: Parquet file.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: The file cannot be read, or has no column of texts or of images.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pyarrow = import_pyarrow()
        self.name = str(path)
        self.identity: Mapping[str, int] = scan(path)[0]
        try:
            file = self._open()
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: is not Parquet ({error}); give a Parquet file, or JSON Lines") from None
        with file:
            self.total: int | None = file.metadata.num_rows
            names = file.schema_arrow.names
        self._columns = [name for name in _COLUMNS if name in names]
        self._check_columns(names)

    def read(self, start: Position, shard: Shard) -> Iterator[RawRecord]:
        """Yield the records of a shard after a position, in order."""
        try:
            with self._open() as file:
                first = 0
                for group in range(file.num_row_groups):
                    n_rows = file.metadata.row_group(group).num_rows
                    numbers = range(first + 1, first + n_rows + 1)
                    first += n_rows
                    if any(number > start.number and shard.has(number) for number in numbers):
                        yield from self._read_group(file, group, numbers, start, shard)
        except (OSError, self._pyarrow.ArrowException) as error:
            raise DataError(f"{self._path}: cannot be read ({error}); the file is damaged: write it again") from None

    def _open(self) -> Any:
        # without these, all pages of a group of rows would be in memory, including images
        return self._pyarrow.parquet.ParquetFile(self._path, pre_buffer=False, buffer_size=_BUFFER)

    def _check_columns(self, names: list[str]) -> None:
        if "text" not in names or not {"image", "image_bytes", "image_base64"} & set(names):
            raise DataError(
                f"{self._path}: has the columns {', '.join(names)}; it needs `text`, and `image` (paths, or structs of "
                "bytes and path), `image_bytes` or `image_base64`: rename them"
            )
        if others := [name for name in names if name not in _COLUMNS + _IGNORED]:
            logger.warning("%s: columns that are not read: %s", self._path, ", ".join(others))

    def _read_group(self, file: Any, group: int, numbers: range, start: Position, shard: Shard) -> Iterator[RawRecord]:
        rest = iter(numbers)
        for batch in file.iter_batches(
            batch_size=_ROWS_READ, row_groups=[group], columns=self._columns, use_threads=False
        ):
            for row, number in enumerate(islice(rest, batch.num_rows)):
                if number > start.number and shard.has(number):
                    yield _read_row(batch.slice(row, 1), number)


def write_parquet(lines: Path, path: Path) -> None:
    """Write predictions from JSON Lines as Parquet: the same records in the same order, as columns.

    Args:
        lines: Predictions, one JSON object per line.
        path: File to write.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    pyarrow = import_pyarrow()
    schema = _schema(pyarrow)
    with lines.open("rb") as stream, pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while records := [json.loads(line) for line in islice(stream, _ROWS_WRITTEN)]:
            writer.write_table(pyarrow.Table.from_pylist(records, schema=schema))


def import_pyarrow() -> Any:
    """Import and return pyarrow, which only Parquet needs.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "Parquet needs pyarrow, which is not installed: pip install 'halspan[parquet]', or use JSON Lines (.jsonl)"
        ) from None
    return pyarrow


def _read_row(row: Any, number: int) -> RawRecord:
    """Read one row; a value that a caption cannot have, such as text that is not UTF-8, rejects that row only."""
    content: dict[str, Any] | None
    problem = None
    try:
        if row.nbytes > MOST_LINE_BYTES:  # a file of a kilobyte may hold one of gigabytes
            raise ValueError(f"it has {row.nbytes:,} bytes, more than {MOST_LINE_BYTES:,}")
        (values,) = row.to_pylist()
        content = _without_nulls(values)
        if isinstance(image := content.get("image"), Mapping):
            content["image"] = image.get("path")
            content["image_bytes"] = image.get("bytes", content.get("image_bytes"))
        raw = json.dumps(content, ensure_ascii=False, default=_describe)
    except (ValueError, TypeError, OverflowError) as error:
        content, problem, raw = None, f"the row cannot be read: {error}", ""
    return RawRecord(position=Position(number), content=content, problem=problem, raw=shorten(raw), n_bytes=row.nbytes)


def _without_nulls(value: Any) -> Any:
    """Remove nulls: a column of structs has a place for every key, whether or not a record has it."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _describe(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


def _schema(pyarrow: Any) -> Any:
    text, whole, number = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    votes = pyarrow.struct({"correct": whole, "incorrect": whole, "unknown": whole})
    span = {"start": whole, "end": whole, "type": text}
    sentence = {
        "start": whole,
        "end": whole,
        "label": text,
        "types": pyarrow.list_(text),
        "votes": votes,
        "p_incorrect": number,
        "unscored": text,
        "logit": number,
    }
    columns = dict.fromkeys(("id", "image", "generator", "direction", "text"), text) | {
        "sentences": pyarrow.list_(pyarrow.struct(sentence)),
        "spans": pyarrow.list_(pyarrow.struct(span)),
        "predicted": pyarrow.list_(pyarrow.struct(span | {"score": number})),
        "threshold": number,
    }
    return pyarrow.schema(list(columns.items()))
