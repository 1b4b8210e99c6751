"""Hallucinated words given as text: parsed from any form they have, and located in their sentence."""

import ast
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from halspan.core.checks import kind, show
from halspan.core.errors import DataError
from halspan.core.text.graphemes import cuts_word

How = Literal["exact", "folded", "trimmed"]

# Tried in this order on words that do not occur literally.
DELIMITERS = ("\n", ";", "|", "/", ",")
# Curly quotes, primes, accents used as apostrophes, guillemets; dashes and hyphens.
_SAME_CHARACTER = dict.fromkeys("‘’‚‛′´`ʼ", "'") | dict.fromkeys("“”„‟″«»", '"') | dict.fromkeys("‐‑‒–—−", "-")


@dataclass(frozen=True, slots=True)
class Match:
    """The places of words that were found in a sentence.

    Attributes:
        words: The words looked for.
        start: First character in the sentence; None if they do not occur.
        end: The character after the last one; None if they do not occur.
        how: "exact"; "folded": ignoring case, kind of quotes and dashes, and whitespace; "trimmed": also ignoring
            punctuation around the words. None if they do not occur.
        ambiguous: Whether the folded words occur more often than they are listed, so that the place is a guess.
        split: Whether they are part of a list that came as one string.
    """

    words: str
    start: int | None = None
    end: int | None = None
    how: How | None = None
    ambiguous: bool = False
    split: bool = False


def parse_words(value: Any) -> tuple[tuple[str, ...], str]:
    """Read a cell that holds words: a string, a list of strings, either of them encoded as a string, or nothing.

    Args:
        value: The JSON value of the cell.

    Returns:
        The non-empty strings, and the name of the form met, such as "list", "JSON list" or "null".

    Raises:
        DataError: The value is something else, or a list with something else in it.

    >>> parse_words('["red", "two "]')
    (('red', 'two'), 'JSON list')
    """
    if is_null(value):
        return (), "null"
    if isinstance(value, str):
        form, items = _parse_string(value.strip())
    elif isinstance(value, list):
        form, items = ("list" if value else "empty list"), value
    else:
        raise DataError(f"{show(value)} is {kind(value)}; write words as a string or a list of strings")
    if wrong := [item for item in items if not isinstance(item, str | None)]:
        raise DataError(f"{show(wrong[0])} in a list is {kind(wrong[0])}; write words as a string or a list of strings")
    return tuple(item.strip() for item in items if item and item.strip()), form


def is_null(value: Any) -> bool:
    """Return whether a cell is null, including a NaN from a table."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def match_words(sentence: str, words: Sequence[str]) -> tuple[Match, ...]:
    """Find words in their sentence, in order and at word boundaries, each at a place of its own.

    Words are searched for first after the preceding ones, then anywhere. A phrase that does not occur is tried as a
    list with a delimiter (`DELIMITERS`).

    Args:
        sentence: The sentence.
        words: Words or phrases, in the order they are listed.

    Returns:
        One match for each phrase or part of a phrase, including those that do not occur.

    >>> [(match.words, match.start) for match in match_words("A red cat.", ["red", "dog"])]
    [('red', 2), ('dog', None)]
    """
    target = _Text(sentence)
    pieces = [(piece, len(parts) > 1) for parts in (_split(target, phrase) for phrase in words) for piece in parts]
    found = [target.find(piece) for piece, _ in pieces]
    alike = [tuple(target.find_alike(piece) or places) for (piece, _), (_, places) in zip(pieces, found, strict=True)]
    listed = Counter(alike)
    taken: list[tuple[int, int]] = []
    matches = []
    for (piece, split), (how, places), rivals in zip(pieces, found, alike, strict=True):
        place = _choose(places, taken)
        if place is None:
            matches.append(Match(piece, split=split))
            continue
        taken.append(place)
        ambiguous = len(rivals) > listed[rivals]
        matches.append(Match(piece, *place, how=how, ambiguous=ambiguous, split=split))
    return tuple(matches)


class _Text:
    """A sentence and its folded form, with the mapping back to the sentence's characters."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def folded(self) -> tuple[str, list[int]]:
        return _fold(self.text)

    def find(self, words: str) -> tuple[How | None, list[tuple[int, int]]]:
        """Return every place of the words, by the strictest way of matching that finds any."""
        if places := list(_occurrences(self.text, words)):
            return "exact", places
        if places := self.find_alike(words):
            return "folded", places
        folded = _fold(words)[0].strip()
        places = self._find_folded(folded.strip("".join(c for c in set(folded) if not _is_of_word(c))))
        return ("trimmed", places) if places else (None, [])

    def find_alike(self, words: str) -> list[tuple[int, int]]:
        """Return every place of the words, ignoring case, kind of quotes and dashes, and whitespace."""
        return self._find_folded(_fold(words)[0].strip())

    def _find_folded(self, form: str) -> list[tuple[int, int]]:
        text, origin = self.folded
        return [(origin[start], origin[end - 1] + 1) for start, end in _occurrences(text, form)]


def _parse_string(text: str) -> tuple[str, list[Any]]:
    if not text:
        return "empty string", []
    if text.startswith("[") and text.endswith("]"):
        for form, parse in (("JSON list", json.loads), ("Python list", ast.literal_eval)):
            try:
                items = parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(items, list) and all(isinstance(item, str | None) for item in items):
                return form, items
    return "string", [text]


def _split(target: _Text, phrase: str) -> list[str]:
    """Return the phrase if it occurs or none of its parts does, else the parts by the most successful delimiter."""
    if target.find(phrase)[1]:
        return [phrase]
    best, best_share = [phrase], 0.0
    for delimiter in DELIMITERS:
        parts = [part.strip() for part in phrase.split(delimiter) if part.strip()]
        share = sum(bool(target.find(part)[1]) for part in parts) / max(1, len(parts))
        if share > best_share:
            best, best_share = parts, share
    return best


def _choose(places: list[tuple[int, int]], taken: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the first free place after the last one taken, else the first free one, else one only partly taken."""
    after = taken[-1][1] if taken else 0
    free = [place for place in places if all(place[1] <= start or end <= place[0] for start, end in taken)]
    following = [place for place in free if place[0] >= after]
    return next(iter(following or free or [place for place in places if place not in taken]), None)


def _occurrences(text: str, words: str) -> Iterator[tuple[int, int]]:
    """Return every place of the words, without overlaps, that neither starts nor ends inside a word."""
    start = text.find(words) if words else -1
    while start >= 0:
        end = start + len(words)
        whole = not (cuts_word(text, start) or cuts_word(text, end))
        if whole:
            yield start, end
        start = text.find(words, end if whole else start + 1)


def _is_of_word(character: str) -> bool:
    """Return whether a character is a letter, a mark on one, or a digit."""
    return unicodedata.category(character)[0] in "LMN"


def _fold(text: str) -> tuple[str, list[int]]:
    """Return text without differences of case, quotes, dashes and whitespace, and each character's origin."""
    folded: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(text):
        form = _form_of(character)
        if form == " " and folded and folded[-1] == " ":
            form = ""
        folded.extend(form)
        origin.extend([index] * len(form))
    return "".join(folded), origin


@lru_cache(maxsize=4096)
def _form_of(character: str) -> str:
    if character.isspace():
        return " "
    if unicodedata.category(character) == "Cf":  # zero-width joiners, byte order marks, soft hyphens
        return ""
    return unicodedata.normalize("NFKD", _SAME_CHARACTER.get(character, character)).casefold()
