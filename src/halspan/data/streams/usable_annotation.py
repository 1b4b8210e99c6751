"""Removal of unusable annotation from a caption's record, for uses that do not need the annotation."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from halspan.core.captions import LABELS, read_span, read_votes
from halspan.core.checks import check_choice, check_object, check_text, kind, show
from halspan.core.errors import DataError
from halspan.core.record_keys import SENTENCE_KEYS


def without_bad_annotation(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Remove the labels, types, votes and spans of a record that cannot be used.

    The ranges of sentences stay as they are, because they define what is scored.

    Returns:
        The record with its usable annotation, and a message about each part that was removed.

    >>> caption = {"text": "It is.", "sentences": [{"start": 0, "end": 6, "label": "Incorrect"}]}
    >>> kept, problems = without_bad_annotation(caption)
    >>> kept["sentences"]
    [{'start': 0, 'end': 6}]
    """
    problems: list[str] = []
    kept = dict(record)
    if isinstance(sentences := record.get("sentences"), list | tuple):
        kept["sentences"] = [
            _usable_sentence(sentence, f"sentences[{index}].", problems) for index, sentence in enumerate(sentences)
        ]
    if record.get("spans") is not None:
        kept["spans"] = _usable_items(record["spans"], "spans", partial(_check_span, record.get("text")), problems)
    return kept, problems


def _usable_sentence(sentence: Any, prefix: str, problems: list[str]) -> Any:
    if not isinstance(sentence, Mapping):
        return sentence
    problems += [f"{prefix}{key}: unknown key" for key in sentence if key not in SENTENCE_KEYS]
    kept = {key: value for key, value in sentence.items() if key in SENTENCE_KEYS}
    if not _passes(_check_label, kept.get("label"), prefix, problems):
        del kept["label"]
    if not _passes(read_votes, kept.get("votes"), prefix, problems):
        del kept["votes"]
    if kept.get("types") is not None:
        kept["types"] = _usable_items(kept["types"], f"{prefix}types", partial(check_text, "type"), problems)
    return kept


def _usable_items(items: Any, field: str, check: Callable[[Any], object], problems: list[str]) -> list[Any]:
    if not isinstance(items, list | tuple):
        problems.append(f"{field}: {show(items)} is {kind(items)}, not a list")
        return []
    return [item for index, item in enumerate(items) if _passes(check, item, f"{field}[{index}].", problems)]


def _check_label(label: Any) -> None:
    if label is not None:
        check_choice("label", label, LABELS)


def _check_span(text: Any, record: Any) -> None:
    check_object("span", record)
    span = read_span(record)
    if isinstance(text, str) and span.end > len(text):
        raise DataError(f"end: {span.end} is beyond the text's {len(text)} characters")


def _passes(check: Callable[[Any], object], value: Any, prefix: str, problems: list[str]) -> bool:
    try:
        check(value)
    except DataError as error:
        problems.append(f"{prefix}{error}")
        return False
    return True
