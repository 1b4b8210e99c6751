"""One row of AlignBench: a sentence, read from any form its columns have."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from halspan.core.captions import LABELS, Label, Votes
from halspan.core.checks import check_choice, check_text, kind, show
from halspan.core.errors import DataError
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.readers.error_words import DELIMITERS, is_null, parse_words

REQUIRED = ("model", "sentence_index", "caption", "annotation")
IMAGE_COLUMNS = ("image_path_in_repo", "image_url", "image_name")
VOTE_COLUMNS = ("n_correct", "n_incorrect", "n_unknown")
_NO_TYPE = frozenset({"none", "null", "nan", "n/a"})
_TYPE_BY_KEY = {name.casefold(): name for name in HALLUCINATION_TYPES}
_ANY_DELIMITER = re.compile("[" + "".join(map(re.escape, DELIMITERS)) + "]")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The names that a row gives its image; at least one is set.

    Attributes:
        path: Its path in the release (`image_path_in_repo`).
        url: Its address on the web (`image_url`).
        name: `image_name`.
    """

    path: str | None
    url: str | None
    name: str | None

    @property
    def key(self) -> str:
        """Return the most specific name."""
        return self.path or self.url or self.name or ""


@dataclass(frozen=True, slots=True)
class Row:
    """One sentence with its annotation.

    Attributes:
        index: 0-based position in the caption.
        text: The sentence, without whitespace around it.
        label: Correct, incorrect or unknown.
        types: Hallucination types as listed, repetitions included.
        words: Hallucinated words as listed.
        votes: Votes of the annotators; None where there are none or some are missing.
        incomplete_votes: The empty vote column in a row with other votes; None where there is none.
    """

    index: int
    text: str
    label: Label
    types: tuple[str, ...]
    words: tuple[str, ...]
    votes: Votes | None
    incomplete_votes: str | None


def read_source(record: Mapping[str, Any]) -> tuple[str, ImageReference]:
    """Return the model and the image that a row belongs to.

    Raises:
        DataError: The row does not name them.
    """
    model = _column(record, "model")
    check_text("model", model)
    image = ImageReference(*(_optional_text(record, name) for name in IMAGE_COLUMNS))
    if not image.key:
        raise DataError(
            f"{IMAGE_COLUMNS[0]}: empty, and so are {' and '.join(IMAGE_COLUMNS[1:])}; name the row's image"
        )
    return model.strip(), image


def read_row(record: Mapping[str, Any]) -> tuple[Row, dict[str, str]]:
    """Read a row.

    Args:
        record: The JSON object.

    Returns:
        The row, and the forms of the cells `error_type`, `error_words` and `annotation`.

    Raises:
        DataError: A column is missing or its value is not possible.

    >>> cells = {"caption": "A red cat.", "sentence_index": 0, "annotation": "Incorrect", "error_words": "red"}
    >>> row, forms = read_row(cells)
    >>> row.label, row.words
    ('incorrect', ('red',))
    """
    text = _column(record, "caption")
    check_text("caption", text)
    annotation = _column(record, "annotation")
    check_text("annotation", annotation)
    label = annotation.strip().casefold()
    check_choice("annotation", label, LABELS)
    types, type_form = _types(record.get("error_type"))
    words, word_form = _named("error_words", record.get("error_words"))
    row = Row(_index(record), text.strip(), cast(Label, label), types, words, *_votes(record))
    return row, {"annotation": annotation, "error_type": type_form, "error_words": word_form}


def _column(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        if {"text", "generator"} <= record.keys():
            raise DataError("is a caption, not a row in AlignBench's columns; read it with data=jsonl")
        columns = ", ".join(IMAGE_COLUMNS)
        raise DataError(f"{name}: missing; an AlignBench row needs {', '.join(REQUIRED)} and one of {columns}")
    return record[name]


def _optional_text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if is_null(value) or value == "":
        return None
    check_text(name, value)
    return str(value).strip()


def _named(name: str, value: Any) -> tuple[tuple[str, ...], str]:
    try:
        return parse_words(value)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _types(value: Any) -> tuple[tuple[str, ...], str]:
    items, form = _named("error_type", value)
    names = [name.strip() for item in items for name in _ANY_DELIMITER.split(item)]
    types = tuple(_canonical_type(name) for name in names if name and name.casefold() not in _NO_TYPE)
    return types, f"delimited {form}" if len(names) > len(items) else form


def _canonical_type(name: str) -> str:
    key = name.casefold()
    for form in (key, key.removesuffix("s")):
        if form in _TYPE_BY_KEY:
            return _TYPE_BY_KEY[form]
    raise DataError(f"error_type: {show(name)} is not possible; one of {', '.join(HALLUCINATION_TYPES)}, or null")


def _index(record: Mapping[str, Any]) -> int:
    index = _count("sentence_index", _column(record, "sentence_index"))
    if index is None:
        raise DataError("sentence_index: null; give the sentence's 0-based position in its caption")
    return index


def _votes(record: Mapping[str, Any]) -> tuple[Votes | None, str | None]:
    """Return the votes, if those for correct and incorrect are known, and the missing column if only some are."""
    correct, incorrect, unknown = (_count(name, record.get(name)) for name in VOTE_COLUMNS)
    if correct is None or incorrect is None:
        is_started = (correct, incorrect, unknown) != (None, None, None)
        return None, VOTE_COLUMNS[0 if correct is None else 1] if is_started else None
    votes = Votes(correct, incorrect, unknown or 0)
    return (votes if any((correct, incorrect, unknown)) else None), None


def _count(name: str, value: Any) -> int | None:
    """Parse a whole number, which may be written as 2.0 or "2"."""
    if is_null(value) or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # the last one is for an integer of hundreds of digits
        number = -1.0
    if isinstance(value, bool) or number < 0 or not number.is_integer():
        raise DataError(f"{name}: {show(value)} is {kind(value)}, not a count; write a whole number, 0 or more")
    return int(number)
