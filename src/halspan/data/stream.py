"""Captions read one at a time, from any place on: lines of JSON, and what they say, whole or refused with a reason."""

import base64
import binascii
import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from PIL.Image import Image

from halspan.core.annotation import without_bad_annotation
from halspan.core.captions import Caption
from halspan.core.checks import check_object, check_text, kind, show
from halspan.core.errors import ConfigError, DataError
from halspan.core.record_keys import without_extra_keys
from halspan.data.addresses import downloaded_file, is_address
from halspan.data.file_kinds import check_is_lines, refuse_other_kinds
from halspan.data.images import load_image, load_image_bytes
from halspan.data.jsonl import MOST_LINE_BYTES, parse_json, peek
from halspan.data.lines import STDIN, open_lines

BLOCK = 256  # records that are scored together, and that a shard takes together
MOST_CHARACTERS = 1_000_000  # of a text; the memory it takes grows with it
_MOST_SHOWN = 2000  # characters of a rejected record that are kept
_CHUNK = 2**20  # bytes
DEFAULTS = {"generator": "unknown", "direction": "image_to_text"}


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `count`-th block of records, the first of them the block with number `index`, from 1.

    Raises:
        ConfigError: there is no such shard.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(f"--shard: {self} is not possible; the shards of 4 are 1/4, 2/4, 3/4 and 4/4")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `i/n`.

        Raises:
            ConfigError: it is none.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise ConfigError(f"--shard: {text!r} is not i/n; the shards of 4 are 1/4, 2/4, 3/4 and 4/4")
        return cls(int(index), int(count))

    def has(self, number: int) -> bool:
        """Say whether the record with this number, from 1, belongs to the shard."""
        return block_of(number) % self.count == self.index - 1

    def size(self, total: int) -> int:
        """Count the shard's records among so many."""
        whole, rest = divmod(total, BLOCK)
        n_whole = len(range(self.index - 1, whole, self.count))
        return n_whole * BLOCK + (rest if whole % self.count == self.index - 1 else 0)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reader has come.

    Attributes:
        number: lines or rows behind it.
        offset: bytes behind it, in a file of lines.
    """

    number: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRecord:
    """A record as it stands in the input.

    Attributes:
        position: behind the record; its number is that of the line or row, from 1.
        content: its keys and values; None where it could not be read.
        problem: why it could not be read; None where it could.
        raw: what stands there, cut at 2,000 characters.
        n_bytes: its whole size.
    """

    position: Position
    content: Mapping[str, Any] | None
    problem: str | None
    raw: str
    n_bytes: int

    def reject(self, reason: str) -> dict[str, Any]:
        """Give the record's JSON object among those that could not be used."""
        return {
            "line": self.position.number,
            "reason": writable(reason),
            "bytes": self.n_bytes,
            "record": writable(self.raw),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A caption ready to be scored.

    Attributes:
        source: where it came from.
        caption: its image path is the one to write.
        key: equal for equal images: the image's path, or `sha256:` and the hash of the image inside the record.
        embedded: the bytes of an image inside the record.
        left_out: what is wrong with annotation that was left out, a message each: scoring does without it.
    """

    source: RawRecord
    caption: Caption
    key: Path
    embedded: bytes | None
    left_out: Sequence[str] = ()

    def load_image(self) -> Image:
        """Read the image.

        Raises:
            DataError: it cannot be read.
        """
        if self.embedded is not None:
            return load_image_bytes(self.embedded)
        try:
            is_other = self.key.exists() and not self.key.is_file()
        except OSError as error:  # a name that is too long, a folder that may not be entered
            raise DataError(f"image {self.key}: cannot be read ({error.strerror}); correct its path") from None
        if is_other:  # reading a pipe would wait for ever
            raise DataError(f"image {self.key}: is not a file; give the path of a picture")
        return load_image(self.key)


class Source(Protocol):
    """Where records come from.

    Attributes:
        name: to call it by.
        identity: what tells it from other contents under the same name.
        total: its lines or rows; None where that is not known beforehand.
    """

    name: str
    identity: Mapping[str, int]
    total: int | None

    def read(self, start: Position, shard: Shard) -> Iterator[RawRecord]:
        """Give the records of a shard behind a position, in order.

        Raises:
            DataError: it cannot be read.
        """
        ...


class JsonLinesFile:
    """A file with one JSON object a line; blank lines are passed over, and count.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or is Parquet, CSV, UTF-16, ...; the message has the command that converts it.
    """

    def __init__(self, path: Path) -> None:
        try:
            refuse_other_kinds(path)
        except OSError as error:
            raise _unreadable(path, error) from None
        self._path = path
        self.name = str(path)
        self.identity: Mapping[str, int]
        self.total: int | None
        self.identity, self.total = scan(path)

    def read(self, start: Position, shard: Shard) -> Iterator[RawRecord]:
        """Give the records of a shard behind a position, in order."""
        try:
            with open_lines(self._path) as stream:
                stream.seek(start.offset)
                yield from read_lines(stream, start, shard)
        except OSError as error:
            raise _unreadable(self._path, error) from None


class JsonLinesStream:
    """One JSON object a line from a stream that is read once, such as standard input.

    Args:
        stream: of bytes.
        name: to call it by.
    """

    def __init__(self, stream: BinaryIO, name: Path = STDIN) -> None:
        self._stream = stream
        self.name = str(name)
        self.identity: Mapping[str, int] = {}
        self.total: int | None = None

    def read(self, start: Position, shard: Shard) -> Iterator[RawRecord]:
        """Give the records of a shard, in order; `start` is the beginning.

        Raises:
            DataError: the stream holds something else than lines of JSON.
        """
        check_is_lines(Path(self.name), peek(self._stream))
        return read_lines(self._stream, start, shard)


class ItemReader:
    """Makes captions of records.

    A record is a canonical caption (or a prediction, of which only the caption is read). Besides:
        - its image may lie inside it, as `image_base64` (text) or `image_bytes` (bytes), in the place of `image`;
          the caption's image path is then `sha256:` and the hash of these bytes, which is what tells images apart.
        - an image that is an address of the web is looked for where `halspan data download` puts it.
        - `id`, `generator` and `direction` may be missing: they become the number of the line or row, "unknown" and
          "image_to_text".
        - labels, types, votes and spans that cannot be used are left out, and `Item.left_out` says so.

    Args:
        images: folder that relative image paths start from.
        folder: where the captions will be written: relative image paths are rewritten to start from there.
        ignore_extra_keys: whether keys that captions do not have are left out too; without it they are refused.
    """

    def __init__(self, images: Path, folder: Path, *, ignore_extra_keys: bool = False) -> None:
        self._ignore_extra_keys = ignore_extra_keys
        self._images = images.resolve()
        self._folder = folder.resolve()

    def read(self, source: RawRecord) -> Item:
        """Read a caption.

        Raises:
            DataError: the record is none; says why.
        """
        if source.content is None:
            raise DataError(source.problem or "there is no record")
        content = {"id": str(source.position.number)} | DEFAULTS
        content |= {key: value for key, value in source.content.items() if key not in content or value is not None}
        embedded = _take_embedded(content)
        if embedded is None:
            if content.get("image") is None:
                raise DataError("image: missing; give its path, or the image itself as image_base64")
            check_text("image", content["image"])
            if is_address(content["image"].strip()):
                content["image"] = str(downloaded_file(content["image"]))
            key = self._images / content["image"]
            if not Path(content["image"]).is_absolute():
                content["image"] = Path(os.path.relpath(key, self._folder)).as_posix()
        else:
            content["image"] = f"sha256:{hashlib.sha256(embedded).hexdigest()}"
            key = Path(content["image"])
        if isinstance(text := content.get("text"), str) and len(text) > MOST_CHARACTERS:
            raise DataError(f"text: {len(text):,} characters are more than {MOST_CHARACTERS:,}; cut it into captions")
        content, extra = without_extra_keys(content) if self._ignore_extra_keys else (content, [])
        usable, left_out = without_bad_annotation(content)
        left_out += [f"{name}: unknown key" for name in extra]
        return Item(source=source, caption=Caption.from_record(usable), key=key, embedded=embedded, left_out=left_out)


def read_lines(stream: BinaryIO, start: Position, shard: Shard) -> Iterator[RawRecord]:
    """Read a JSON object from each line of a shard that is not blank.

    Args:
        stream: UTF-8, standing at the position.
        start: the position.
        shard: which lines to read.
    """
    number, offset = start.number, start.offset
    while line := stream.readline(MOST_LINE_BYTES):
        number += 1
        n_bytes = len(line)
        ended = line
        while not ended.endswith(b"\n") and (ended := stream.readline(MOST_LINE_BYTES)):
            n_bytes += len(ended)
        offset += n_bytes
        if shard.has(number) and line.strip():
            yield _parse_line(line, n_bytes, Position(number, offset))


def block_of(number: int) -> int:
    """Number, from 0, of the block of the record with this number, from 1."""
    return (number - 1) // BLOCK


def scan(path: Path) -> tuple[dict[str, int], int]:
    """Read a file once: its size and CRC-32, which tell whether it is still the same, and how many lines it has.

    Raises:
        DataError: it cannot be read.
    """
    size, crc, n_lines, last = 0, 0, 0, b"\n"
    try:
        with open_lines(path) as stream:
            while chunk := stream.read(_CHUNK):
                size += len(chunk)
                crc = zlib.crc32(chunk, crc)
                n_lines += chunk.count(b"\n")
                last = chunk[-1:]
    except OSError as error:
        raise _unreadable(path, error) from None
    return {"bytes": size, "crc32": crc}, n_lines + (last != b"\n")


def shorten(text: str) -> str:
    """Cut what is kept of a rejected record."""
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def writable(text: str) -> str:
    """Write halves of surrogate pairs, which no UTF-8 file can hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _parse_line(line: bytes, n_bytes: int, position: Position) -> RawRecord:
    content, problem = None, None
    try:
        if n_bytes > len(line):
            raise DataError(f"the line has {n_bytes:,} bytes, more than {MOST_LINE_BYTES:,}; is a line break missing?")
        content = parse_json(line.rstrip())
        check_object("line", content)
    except (DataError, ValueError) as error:  # ValueError: integers of more than 4,300 digits
        content, problem = None, str(error)
    raw = line[: 4 * _MOST_SHOWN].decode("utf-8", "backslashreplace").rstrip("\n")
    return RawRecord(position=position, content=content, problem=problem, raw=shorten(raw), n_bytes=n_bytes)


def _take_embedded(content: dict[str, Any]) -> bytes | None:
    data, text = content.pop("image_bytes", None), content.pop("image_base64", None)
    if data is not None:
        if not isinstance(data, bytes):
            raise DataError(f"image_bytes: {show(data)} is {kind(data)}, not bytes; in JSON write image_base64")
        return data
    if text is None:
        return None
    check_text("image_base64", text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"image_base64: {show(text)} is not base64 ({error}); encode the file's bytes") from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions")
