"""Captions read one at a time from any position; each record is read whole, or refused with a reason."""

import base64
import binascii
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from PIL.Image import Image

from halspan.core.captions import Caption
from halspan.core.checks import check_object, check_text, kind, show
from halspan.core.errors import ConfigError, DataError
from halspan.core.record_keys import without_extra_keys
from halspan.data.download.addresses import downloaded_file, is_address
from halspan.data.images import load_image, load_image_bytes
from halspan.data.readers.file_kinds import check_is_lines, refuse_other_kinds
from halspan.data.readers.jsonl import MOST_LINE_BYTES, parse_json, peek
from halspan.data.stores.access import read_bytes
from halspan.data.stores.paths import Place, StorePath, is_store_address
from halspan.data.streams.lines import STDIN, open_lines
from halspan.data.streams.usable_annotation import without_bad_annotation

BLOCK = 256  # records that are scored together, and that a shard takes together
MOST_SHARDS = 1_000_000
MOST_CHARACTERS = 1_000_000  # largest text; memory grows with its length
_MOST_SHOWN = 2000  # characters of a rejected record that are kept
_CHUNK = 2**20  # bytes
_MOST_DIGITS = 100  # beyond some thousands, Python does not parse a number
DEFAULTS = {"generator": "unknown", "direction": "image_to_text"}


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `count`-th block of records, beginning with the block number `index`, counted from 1.

    Raises:
        ConfigError: The numbers do not make a shard.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count <= MOST_SHARDS:
            raise ConfigError(f"--shard: {self} is not possible; the shards of 4 are 1/4, 2/4, 3/4 and 4/4")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse `i/n`.

        Raises:
            ConfigError: The text is not a shard.

        >>> Shard.parse("2/4").has(300)  # of the blocks of 256 records, it is in the second
        True
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and len(text) < _MOST_DIGITS):
            raise ConfigError(f"--shard: {text!r} is not i/n; the shards of 4 are 1/4, 2/4, 3/4 and 4/4")
        return cls(int(index), int(count))

    def has(self, number: int) -> bool:
        """Return whether the record with this number, from 1, belongs to the shard."""
        return block_of(number) % self.count == self.index - 1

    def size(self, total: int) -> int:
        """Return the number of the shard's records among the first `n`."""
        whole, rest = divmod(total, BLOCK)
        n_whole = len(range(self.index - 1, whole, self.count))
        return n_whole * BLOCK + (rest if whole % self.count == self.index - 1 else 0)


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a reader in its input.

    Attributes:
        number: Number of lines or rows before it.
        offset: Number of bytes before it, in a file of lines.
    """

    number: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRecord:
    """A record as it is in the input.

    Attributes:
        position: Position after the record; its number is that of the line or row, from 1.
        content: Keys and values; None where the record could not be read.
        problem: Why it could not be read; None where it could.
        raw: Text of the record, cut at 2,000 characters.
        n_bytes: Size of the whole record, in bytes.
    """

    position: Position
    content: Mapping[str, Any] | None
    problem: str | None
    raw: str
    n_bytes: int

    def reject(self, reason: str) -> dict[str, Any]:
        """Return the JSON object for the file of rejected records."""
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
        source: Record that it was read from.
        caption: The caption, with the image path to write.
        key: Key of the image, equal for equal images: its path or its address in an object store, or `sha256:` and
            the hash of the embedded image.
        embedded: Bytes of an image inside the record.
        left_out: Messages about annotation that was left out, which scoring does not need.
    """

    source: RawRecord
    caption: Caption
    key: Place
    embedded: bytes | None
    left_out: Sequence[str] = ()

    def load_image(self, read: Callable[[StorePath], bytes] = read_bytes) -> Image:
        """Read the image.

        Args:
            read: Function that reads an image in an object store.

        Raises:
            DataError: It cannot be read.
            ResourceError: It is in an object store that cannot be used.
        """
        if self.embedded is not None:
            return load_image_bytes(self.embedded)
        if isinstance(self.key, StorePath):
            return load_image_bytes(read(self.key), str(self.key))
        try:
            is_other = self.key.exists() and not self.key.is_file()
        except OSError as error:  # for example a name that is too long, or a folder without permission
            raise DataError(f"image {self.key}: cannot be read ({error.strerror}); correct its path") from None
        if is_other:  # reading a pipe would block forever
            raise DataError(f"image {self.key}: is not a file; give the path of a picture")
        return load_image(self.key)


class Source(Protocol):
    """A source of records.

    Attributes:
        name: Name, for messages.
        identity: Value that distinguishes its content from other content under the same name.
        total: Number of lines or rows; None where it is not known in advance.
    """

    name: str
    identity: Mapping[str, int]
    total: int | None

    def read(self, start: Position, shard: Shard) -> Iterator[RawRecord]:
        """Yield the records of a shard after a position, in order.

        Raises:
            DataError: It cannot be read.
        """
        ...


class JsonLinesFile:
    """A file with one JSON object per line; blank lines are skipped, but counted.

    Args:
        path: File to read.

    Raises:
        DataError: It cannot be read, or is Parquet, CSV, UTF-16, ...; the message has the command that converts it.
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
        """Yield the records of a shard after a position, in order."""
        try:
            with open_lines(self._path) as stream:
                stream.seek(start.offset)
                yield from read_lines(stream, start, shard)
        except OSError as error:
            raise _unreadable(self._path, error) from None


class JsonLinesStream:
    """One JSON object per line from a stream that is read once, such as standard input.

    Args:
        stream: Stream of bytes.
        name: Name, for messages.
    """

    def __init__(self, stream: BinaryIO, name: Path = STDIN) -> None:
        self._stream = stream
        self.name = str(name)
        self.identity: Mapping[str, int] = {}
        self.total: int | None = None

    def read(self, start: Position, shard: Shard) -> Iterator[RawRecord]:
        """Yield the records of a shard, in order; `start` must be the beginning.

        Raises:
            DataError: The stream does not hold lines of JSON.
        """
        check_is_lines(Path(self.name), peek(self._stream))
        return read_lines(self._stream, start, shard)


class ItemReader:
    """Reader that turns records into captions.

    A record is a canonical caption, or a prediction, of which only the caption is read. In addition:
        - its image may be inside the record, as `image_base64` (text) or `image_bytes` (bytes), instead of `image`;
          the caption's image path is then `sha256:` and the hash of these bytes, which identifies the image.
        - an image with a web address is expected where `halspan data download` stores it.
        - an image may be in an object store if the images' folder is; the caption's image path is then its address.
        - `id`, `generator` and `direction` may be missing: they become the number of the line or row, "unknown" and
          "image_to_text".
        - labels, types, votes and spans that cannot be used are left out, and `Item.left_out` says so.

    Args:
        images: Folder that relative image paths start from.
        folder: Folder of the output; relative image paths are rewritten to start from there, or to be absolute where
            the output is in an object store.
        ignore_extra_keys: Whether keys that captions do not have are left out; otherwise they are refused.
    """

    def __init__(self, images: Place, folder: Place, *, ignore_extra_keys: bool = False) -> None:
        self._ignore_extra_keys = ignore_extra_keys
        self._images = images.resolve() if isinstance(images, Path) else images
        self._folder = folder.resolve() if isinstance(folder, Path) else None

    def read(self, source: RawRecord) -> Item:
        """Read a caption.

        Raises:
            DataError: The record is not a caption; the message says why.
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
            key, content["image"] = self._find(content["image"])
        else:
            content["image"] = f"sha256:{hashlib.sha256(embedded).hexdigest()}"
            key = Path(content["image"])
        if isinstance(text := content.get("text"), str) and len(text) > MOST_CHARACTERS:
            raise DataError(f"text: {len(text):,} characters are more than {MOST_CHARACTERS:,}; cut it into captions")
        content, extra = without_extra_keys(content) if self._ignore_extra_keys else (content, [])
        usable, left_out = without_bad_annotation(content)
        left_out += [f"{name}: unknown key" for name in extra]
        return Item(source=source, caption=Caption.from_record(usable), key=key, embedded=embedded, left_out=left_out)

    def _find(self, image: str) -> tuple[Place, str]:
        """Return where the image of a record is, and what the caption calls it.

        Raises:
            DataError: It is in an object store, and not below the images' folder.
        """
        if is_address(image.strip()):
            image = str(downloaded_file(image))
        if isinstance(self._images, StorePath):
            there = self._images.below(image)
            return there, str(there)
        if is_store_address(image):
            raise DataError(f"image: {show(image)} is in an object store; give its folder there as --images")
        key = self._images / image
        if Path(image).is_absolute():
            return key, image
        return key, str(key) if self._folder is None else Path(os.path.relpath(key, self._folder)).as_posix()


def read_lines(stream: BinaryIO, start: Position, shard: Shard) -> Iterator[RawRecord]:
    """Yield the JSON object of each line of a shard that is not blank.

    Args:
        stream: UTF-8 bytes, read up to the position.
        start: The position.
        shard: Lines to read.
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
    """Return the number, from 0, of the block that holds the record with this number, from 1."""
    return (number - 1) // BLOCK


def scan(path: Path) -> tuple[dict[str, int], int]:
    """Read a file once and return its size and CRC-32, which identify its content, and its number of lines.

    Raises:
        DataError: It cannot be read.
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
    """Shorten the text of a rejected record."""
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def writable(text: str) -> str:
    """Escape lone surrogates, which no UTF-8 file can hold."""
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
