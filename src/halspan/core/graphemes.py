"""Where text may be cut: between the characters that readers see (grapheme clusters), and between words."""

from collections.abc import Iterator

import numpy as np
import regex
from jaxtyping import Int
from numpy import ndarray

_CLUSTER = regex.compile(r"\X")
# `regex` counts marks and joiners as parts of words, `re` does not. Scripts that put no space between words (Chinese,
# Japanese, Thai, Lao, Khmer, Burmese, ...) say nothing about where one ends.
_LETTER = r"[\w--[\p{Line_Break=SA}\p{Han}\p{Hiragana}]]"
_WORD = regex.compile(rf"{_LETTER}+(?:[-'’]{_LETTER}+)*", regex.VERSION1)
# An underscore is a letter to `\w`, and emphasis to who writes _red_.
_GOES_ON = regex.compile(rf"(?<=(?!_){_LETTER})(?!_){_LETTER}|(?<=\S)[\p{{M}}\p{{Join_Control}}]", regex.VERSION1)


def cluster_edges(text: str) -> Int[ndarray, "edge"]:
    """Find where the grapheme clusters of a text begin and end (Unicode UAX #29: a letter with its marks, ...).

    Returns:
        Positions in order, 0 and the length of the text among them.
    """
    if text.isascii():  # nothing combines but a line break of two characters, and whitespace is no ink
        return np.arange(len(text) + 1)
    return np.array([0, *(match.end() for match in _CLUSTER.finditer(text))])


def find_words(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Find the words between two positions: letters with their marks, digits, and hyphens and apostrophes inside.

    Characters of scripts without spaces between words belong to no word.
    """
    return (match.span() for match in _WORD.finditer(text, start, end))


def cuts_word(text: str, position: int) -> bool:
    """Say whether a position lies inside a word, or between a letter and its marks."""
    return _GOES_ON.match(text, position) is not None
