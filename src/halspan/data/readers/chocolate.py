"""The reader of CHOCOLATE (Huang et al., ACL Findings 2024): chart captions with error types for each sentence."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from halspan.core.captions import Caption, Sentence
from halspan.core.checks import check_choice, check_object, check_text, kind, show
from halspan.core.errors import DataError
from halspan.core.files import read_bytes
from halspan.data.corpus import (
    MOST_NAMED,
    Corpus,
    OnProblem,
    Share,
    Skips,
    find_corpus_file,
    find_image_root,
    join_sentences,
    keep_inside,
    keep_with_images,
)
from halspan.data.readers.jsonl import parse_json
from halspan.data.readers.protocol import Sample

logger = logging.getLogger(__name__)

TYPES = ("value_error", "label_error", "trend_error", "magnitude_error", "ooc_error", "nonsense_error")
GRAMMATICAL = "grammatical_error"  # says nothing about the chart: alone, it leaves a sentence correct
_MOST_BYTES = 2**30  # hundreds of times what the release has
_KEYS = ("sentences", "labels", "model", "image_path", "_id")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Chocolate:
    """CHOCOLATE as released: a JSON list of captions, each with sentences and their error types; no spans.

    Attributes:
        path: `chocolate.json`, or its folder.
        images: Folder of the image files; `images/` beside the file if None.
        on_error: "raise" stops at the first malformed record, "skip" leaves them out and counts them.
        missing_image: The same for captions whose image is missing or unreadable.
        min_images: Least share of usable images, 0 to 1; below it the corpus is refused.
        images_inside: Whether image paths may not lead out of the images' folder, by `..`, links or absolute paths.
    """

    file_names: ClassVar[tuple[str, ...]] = ("chocolate.json", "*.json")

    path: Path
    images: Path | None = None
    on_error: OnProblem = "raise"
    missing_image: OnProblem = "raise"
    min_images: Share = 0.9
    images_inside: bool = False

    @classmethod
    def recognizes(cls, sample: Sample) -> bool:
        """Return whether the file begins with a list of CHOCOLATE's records."""
        return sample.head.lstrip()[:1] == b"[" and b'"image_path"' in sample.head and b'"labels"' in sample.head

    def load(self, *, check_images: bool = True) -> Corpus:
        """Read the corpus.

        The release contains some records twice: `notes` counts them, and the copy is left out. An id that is used for
        another caption becomes `id#2`.

        Args:
            check_images: Whether captions without a usable image are refused or left out; False looks at no image.

        Raises:
            DataError: The corpus cannot be found or used; the message names record, value and remedy.
        """
        file = find_corpus_file(self.path, self.file_names)
        root = find_image_root(self.images, file.parent / "images")
        skips, notes = Skips(self.on_error, most=MOST_NAMED), Counter[str]()
        captions = keep_with_images(
            keep_inside(
                _read_captions(file, skips, notes), root, (root,), images_inside=self.images_inside, skips=skips
            ),
            root,
            missing_image=self.missing_image,
            min_images=self.min_images,
            skips=skips,
            check_images=check_images,
        )
        skips.finish()
        return Corpus(
            name="chocolate",
            captions=captions,
            image_root=root,
            taxonomy=TYPES,
            skipped=dict(skips.counts),
            source={"reader": "chocolate", "path": str(file)},
            notes={"records": dict(notes), "problems": skips.problems},
        )


def _read_captions(file: Path, skips: Skips, notes: Counter[str]) -> list[Caption]:
    captions: dict[str, Caption] = {}
    tried: Counter[str] = Counter()
    for index, record in enumerate(_read_list(file)):
        where = f"{file}: record {index}"
        try:
            caption = _caption(record, notes)
        except DataError as error:
            skips.add("malformed records", f"{where}: {error}")
            continue
        if captions.get(caption.id) == caption:
            logger.info("%s: _id: %r stood before, with the same content; left out", where, caption.id)
            notes["records that repeat another one, left out"] += 1
            continue
        if caption.id in captions:
            notes["records with the id of another one, given a new id"] += 1
            caption = replace(caption, id=_free_id(caption.id, captions, tried))
        captions[caption.id] = caption
    return list(captions.values())


def _read_list(file: Path) -> list[Any]:
    try:
        records = parse_json(read_bytes(file, _MOST_BYTES))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the file and its permissions") from None
    except (DataError, ValueError) as error:
        raise DataError(f"{file}: {error}") from None
    if not isinstance(records, list):
        raise DataError(f"{file}: holds {kind(records)}, not a list of records; give CHOCOLATE's chocolate.json")
    return records


def _caption(record: Any, notes: Counter[str]) -> Caption:
    check_object("record", record)
    if missing := [key for key in _KEYS if key not in record]:
        raise DataError(f"{missing[0]}: missing; a record needs {', '.join(_KEYS)}")
    check_text("image_path", record["image_path"])
    check_text("model", record["model"])
    texts, labels = record["sentences"], record["labels"]
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
        raise DataError(f"labels: {show(labels)} do not fit sentences {show(texts)}; give one list of types a sentence")
    for index, text in enumerate(texts):
        check_text(f"sentences[{index}]", text)
    text, ranges = join_sentences(texts)
    types = [_types(f"labels[{index}]", value, notes) for index, value in enumerate(labels)]
    return Caption(
        id=record["_id"],
        image=_file_name(record["image_path"]),
        generator=record["model"],
        direction="image_to_text",
        text=text,
        sentences=tuple(
            Sentence(start, end, label="incorrect" if names else "correct", types=names)
            for (start, end), names in zip(ranges, types, strict=True)
        ),
    )


def _file_name(address: str) -> str:
    try:
        return PurePosixPath(unquote(urlsplit(address).path)).name
    except ValueError as error:  # "http://[", say
        raise DataError(f"image_path: {show(address)} is not an address ({error}); correct it") from None


def _types(field: str, value: Any, notes: Counter[str]) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DataError(f"{field}: {show(value)} is {kind(value)}, not a list; write error types in [ ]")
    for name in value:
        check_choice(field, name, (*TYPES, GRAMMATICAL))
    if value == [GRAMMATICAL]:
        notes[f"sentences that count as correct, with {GRAMMATICAL} only"] += 1
    return tuple(dict.fromkeys(name for name in value if name != GRAMMATICAL))


def _free_id(taken: str, captions: Mapping[str, Caption], tried: Counter[str]) -> str:
    """Number a repeated id from where its last repetition left off, since a file may repeat one without end."""
    for number in count(tried[taken] + 2):
        if (id_ := f"{taken}#{number}") not in captions:
            break
    tried[taken] = number - 2
    return id_
