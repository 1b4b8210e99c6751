"""JSON Lines: the reader and writer of canonical captions, one a line."""

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from halspan.core.captions import Caption
from halspan.core.checks import check_object
from halspan.core.errors import DataError
from halspan.core.files import replacing
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.addresses import downloaded_file, is_address
from halspan.data.corpus import (
    Corpus,
    OnProblem,
    Share,
    Skips,
    find_corpus_file,
    find_image_root,
    keep_with_images,
    types_of,
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class JsonLines:
    """Canonical captions (or predictions, read as captions), one JSON object a line.

    Attributes:
        path: the file, or a folder with one `*.jsonl`.
        images: folder that image paths start from; the file's own if None. An image that is an address of the web is
            looked for where `halspan data download` puts it.
        on_error: "raise" stops at the first malformed record or repeated id, "skip" leaves them out and counts them.
        missing_image: the same for captions whose image is missing or unreadable.
        min_images: least share of usable images, 0 to 1; below it the corpus is refused.
    """

    path: Path
    images: Path | None = None
    on_error: OnProblem = "raise"
    missing_image: OnProblem = "raise"
    min_images: Share = 0.9

    def load(self) -> Corpus:
        """Read the corpus.

        The taxonomy is AlignBench's where it holds every type that occurs, else the types that occur.

        Raises:
            DataError: the corpus cannot be found or used; the message names file, line, value and remedy.
        """
        file = find_corpus_file(self.path, ("*.jsonl",))
        root = find_image_root(self.images, file.parent)
        skips = Skips(self.on_error)
        captions = keep_with_images(
            _read_captions(file, skips),
            root,
            missing_image=self.missing_image,
            min_images=self.min_images,
            skips=skips,
        )
        skips.log()
        types = types_of(captions)
        return Corpus(
            name=file.stem,
            captions=captions,
            image_root=root,
            taxonomy=HALLUCINATION_TYPES if types <= set(HALLUCINATION_TYPES) else tuple(sorted(types)),
            skipped=dict(skips.counts),
            source={"reader": "jsonl", "path": str(file)},
            notes={"examples": skips.examples},
        )


def read_objects(file: Path, skips: Skips) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read one JSON object a line; blank lines are passed over.

    Args:
        file: UTF-8, with or without a byte order mark.
        skips: what to do about lines that hold no JSON object.

    Yields:
        Where the object stands ("captions.jsonl:3"), and the object.

    Raises:
        DataError: the file cannot be read or holds nothing, or a line is no JSON object and problems are to be raised.
    """
    n_lines = 0
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
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


def parse_json(data: bytes) -> Any:
    """Parse UTF-8 JSON, with or without a byte order mark.

    Raises:
        DataError: there is nothing, or it is not UTF-8 or not JSON; the message says where.
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
    """Write one JSON object a line, atomically: the file is complete or it is what it was before.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        with replacing(path) as partial, partial.open("w", encoding="utf-8") as stream:
            for record in records:
                stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def _read_captions(file: Path, skips: Skips) -> list[Caption]:
    captions = []
    places: dict[str, str] = {}
    for where, record in read_objects(file, skips):
        try:
            caption = Caption.from_record(record)
        except DataError as error:
            skips.add("malformed records", f"{where}: {error}")
            continue
        if caption.id in places:
            problem = f"{where}: id: {caption.id!r} is that of {places[caption.id]} already; make ids unique"
            skips.add("records with a repeated id", problem)
            continue
        places[caption.id] = where
        captions.append(_located(caption))
    return captions


def _located(caption: Caption) -> Caption:
    """The caption with a path for its image, where it has an address of the web."""
    if not is_address(caption.image.strip()):
        return caption
    return replace(caption, image=str(downloaded_file(caption.image)))
