"""Checks of character ranges against their text; each raises a DataError that names the remedy."""

from collections.abc import Sequence
from typing import Protocol

from halspan.core.errors import DataError


class _Range(Protocol):
    """Characters `[start, end)` of a text."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...


def check_inside(field: str, ranges: Sequence[_Range], text: str) -> None:
    """Require that ranges end within the text."""
    for index, item in enumerate(ranges):
        if item.end > len(text):
            raise DataError(
                f"{field}[{index}].end: {item.end} is beyond the text's {len(text)} characters; "
                "count characters (not bytes) of this caption's own text"
            )


def check_sentences(sentences: Sequence[_Range], text: str) -> None:
    """Require that sentences are in order, disjoint, and within the text."""
    if not sentences:
        raise DataError("sentences: there are none to judge; leave the key out to have the text split")
    check_inside("sentences", sentences, text)
    for index in range(1, len(sentences)):
        last, this = sentences[index - 1], sentences[index]
        if this.start < last.start:
            raise DataError(
                f"sentences[{index}].start: {this.start} comes before sentences[{index - 1}] at {last.start}; "
                "order the sentences by their start"
            )
        if this.start < last.end:
            raise DataError(
                f"sentences[{index}].start: {this.start} is inside sentences[{index - 1}], which ends at {last.end}; "
                "sentences must not overlap"
            )
