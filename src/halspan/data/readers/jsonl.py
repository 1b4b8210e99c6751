"""JSON Lines: the reader and writer of canonical captions, one per line."""

import codecs
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from halspan.core.captions import Caption
from halspan.core.checks import check_object
from halspan.core.errors import DataError
from halspan.core.files import replacing
from halspan.core.record_keys import SENTENCE_KEYS, without_extra_keys
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.corpus import (
    MOST_NAMED,
    Corpus,
    OnProblem,
    Share,
    Skips,
    find_corpus_file,
    find_image_root,
    keep_inside,
    keep_with_images,
    types_of,
)
from halspan.data.download.addresses import downloaded_file, is_address
from halspan.data.readers.file_kinds import HEAD_BYTES, check_is_caption, check_is_lines
from halspan.data.readers.protocol import Sample
from halspan.data.streams.lines import create_lines, is_compressed, open_lines, without_suffixes

OnExtraKeys = Literal["raise", "ignore"]
logger = logging.getLogger(__name__)
MOST_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class JsonLines:
    """Canonical captions (or predictions, read as captions), one JSON object per line.

    Attributes:
        path: The file, or a folder with one `*.jsonl`.
        images: Folder that image paths start from; the file's own if None. An image that is an address of the web is
            expected where `halspan data download` stores it.
        on_error: "raise" stops at the first malformed record or repeated id, "skip" leaves them out and counts them.
        missing_image: The same for captions whose image is missing or unreadable.
        min_images: Least share of usable images, 0 to 1; below it the corpus is refused.
        images_inside: Whether image paths may not lead out of the images' folder, by `..`, links or absolute paths.
        extra_keys: "raise" calls a record malformed that has keys which captions do not have, "ignore" leaves these
            keys out and logs it.
    """

    file_names: ClassVar[tuple[str, ...]] = ("*.jsonl", "*.jsonl.gz")

    path: Path
    images: Path | None = None
    on_error: OnProblem = "raise"
    missing_image: OnProblem = "raise"
    min_images: Share = 0.9
    images_inside: bool = False
    extra_keys: OnExtraKeys = "raise"

    @classmethod
    def recognizes(cls, sample: Sample) -> bool:
        """Return whether the records are captions: as lines, or in a form that this reader can explain."""
        if sample.record is not None:
            return {"generator", "text"} <= sample.record.keys()
        return b'"generator"' in sample.head and b'"image_path"' not in sample.head

    @classmethod
    def find_links(cls, file: Path, images: Path, skips: Skips) -> dict[str, bool]:  # noqa: ARG003
        """Return each address in `image`; readers find a downloaded image by its address alone."""
        places = (record.get("image") for _, record in read_objects(file, skips))
        texts = (place.strip() for place in places if isinstance(place, str))
        return {text: False for text in texts if is_address(text)}

    def load(self, *, check_images: bool = True, stream: BinaryIO | None = None) -> Corpus:
        """Read the corpus.

        The taxonomy is AlignBench's if that holds every type that occurs, else the types that occur.

        Args:
            check_images: Whether captions without a usable image are refused or left out; False looks at no image.
            stream: Stream of the lines; if given, the path is only its name.

        Raises:
            DataError: The corpus cannot be found or used; the message names file, line, value and remedy.
        """
        file = find_corpus_file(self.path, self.file_names) if stream is None else self.path
        root = find_image_root(self.images, file.parent)
        skips = Skips(self.on_error, most=MOST_NAMED)
        lines: dict[str, int] = {}
        left_out: Counter[str] = Counter()
        objects = read_objects(file, skips, stream=stream)
        read = _read_captions(objects, file, skips, lines, left_out if self.extra_keys == "ignore" else None)
        captions = keep_with_images(
            keep_inside(read, root, (root,), images_inside=self.images_inside, skips=skips),
            root,
            missing_image=self.missing_image,
            min_images=self.min_images,
            skips=skips,
            check_images=check_images,
        )
        skips.finish()
        if left_out:
            listing = ", ".join(f"{key} ({count})" for key, count in left_out.items())
            logger.warning("keys that captions do not have, left out: %s", listing)
        types = types_of(captions)
        return Corpus(
            name=without_suffixes(file).name,
            captions=captions,
            image_root=root,
            taxonomy=HALLUCINATION_TYPES if types <= set(HALLUCINATION_TYPES) else tuple(sorted(types)),
            skipped=dict(skips.counts),
            source={"reader": "jsonl", "path": str(file)},
            lines=lines,
            notes={"keys_left_out": dict(left_out), "problems": skips.problems},
        )


def read_objects(file: Path, skips: Skips, *, stream: BinaryIO | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the JSON object of each line; blank lines are skipped.

    Args:
        file: UTF-8, with or without a byte order mark, compressed where its name ends with `.gz`.
        skips: Handler of lines without a JSON object.
        stream: Stream of the lines; if given, the file is only its name.

    Yields:
        The place of the object ("captions.jsonl:3"), and the object.

    Raises:
        DataError: The file cannot be read or is empty, or a line is not a JSON object and problems are to be raised.
    """
    n_lines = 0
    try:
        with open_lines(file) if stream is None else nullcontext(stream) as lines:
            check_is_lines(file, peek(lines))
            for number, line in enumerate(iter(lambda: lines.readline(MOST_LINE_BYTES + 1), b""), start=1):
                if len(line) > MOST_LINE_BYTES:
                    raise DataError(
                        f"{file}:{number}: the line has more than {MOST_LINE_BYTES:,} bytes; write one caption a line"
                    )
                if not line.strip():
                    continue
                n_lines += 1
                where = f"{file}:{number}"
                try:
                    record = parse_json(line.rstrip())
                    check_object("line", record)
                except DataError as error:
                    skips.add("malformed records", f"{where}: {error}")
                    continue
                yield where, record
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the file and its permissions") from None
    if not n_lines:
        raise DataError(f"{file}: the file is empty; write one JSON object a line")


def peek(stream: BinaryIO) -> bytes:
    """Return the next bytes of a stream without consuming them."""
    if not stream.seekable():
        return stream.peek(HEAD_BYTES) if isinstance(stream, BufferedReader) else b""
    start = stream.tell()
    head = stream.read(HEAD_BYTES)
    stream.seek(start)
    return head


def line_of(where: str) -> int:
    """Return the line number in a place that `read_objects` yields."""
    return int(where.rpartition(":")[2])


def parse_json(data: bytes) -> Any:
    """Parse UTF-8 JSON, with or without a byte order mark.

    Raises:
        DataError: The text is empty, not UTF-8 or not JSON; the message says where.

    >>> parse_json(b'{"id": 1}')
    {'id': 1}
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        raise DataError("the file is empty; write records to it or give another one")
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {data[error.start]:#04x} at position {error.start} is not UTF-8; save it as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in error.doc else f"character {error.pos}"
        problem = "it ends too early" if error.pos == len(error.doc) else error.msg
        raise DataError(f"not JSON: {problem} ({place}); repair it") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"not usable JSON: {error}; repair it") from None
    except RecursionError:
        raise DataError("not usable JSON: nested too deeply; repair it") from None


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line; the file is replaced in one step.

    A file whose name ends with `.gz` is compressed.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        with replacing(path) as partial, create_lines(partial, compressed=is_compressed(path)) as stream:
            write_lines(stream, records)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def write_lines(stream: BinaryIO, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line to a stream."""
    for record in records:
        stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _read_captions(
    objects: Iterable[tuple[str, dict[str, Any]]],
    file: Path,
    skips: Skips,
    lines: dict[str, int],
    left_out: Counter[str] | None,
) -> Iterator[Caption]:
    """Read captions.

    Args:
        objects: Objects of the lines, each with its place.
        file: Name of the file, for messages.
        skips: Handler of malformed records.
        lines: Output: line of each caption, by id.
        left_out: Output: counts of keys that captions do not have; None makes records with such keys malformed.
    """
    for where, record in objects:
        known, extra = without_extra_keys(record)
        try:
            check_is_caption(record)
            caption = Caption.from_record(record if left_out is None else known)
        except DataError as error:
            hint = _hint(extra[0]) if extra and "unknown key" in str(error) else ""
            skips.add("malformed records", f"{where}: {error}{hint}")
            continue
        if caption.id in lines:
            problem = f"{where}: id: {caption.id!r} is that of {file}:{lines[caption.id]} already; make ids unique"
            skips.add("records with a repeated id", problem)
            continue
        if left_out is not None:
            left_out.update(extra)
        lines[caption.id] = line_of(where)
        yield _located(caption)


def _hint(extra_key: str) -> str:
    if extra_key in SENTENCE_KEYS:
        return f" (a sentence has {extra_key}: put it into the objects of `sentences`)"
    return " (data.extra_keys=ignore or --extra-keys ignore leaves it out)"


def _located(caption: Caption) -> Caption:
    """Return the caption with the path of its downloaded image if it has a web address."""
    if not is_address(caption.image.strip()):
        return caption
    return replace(caption, image=str(downloaded_file(caption.image)))
