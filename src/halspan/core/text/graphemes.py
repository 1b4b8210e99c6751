"""Places where text may be cut: between grapheme clusters (the characters readers see), and between words."""

from collections.abc import Iterator

import numpy as np
import regex
from jaxtyping import Int
from numpy import ndarray

_CLUSTER = regex.compile(r"\X")
# `regex` counts marks and joiners as parts of words, `re` does not. Scripts that put no space between words (Chinese,
# Japanese, Thai, Lao, Khmer, Burmese, ...) do not show where a word ends.
_LETTER = r"[\w--[\p{Line_Break=SA}\p{Han}\p{Hiragana}]]"
_WORD = regex.compile(rf"{_LETTER}+(?:[-'’]{_LETTER}+)*", regex.VERSION1)
# `\w` counts an underscore as a letter, but in _red_ it marks emphasis.
_GOES_ON = regex.compile(rf"(?<=(?!_){_LETTER})(?!_){_LETTER}|(?<=\S)[\p{{M}}\p{{Join_Control}}]", regex.VERSION1)


def cluster_edges(text: str) -> Int[ndarray, "edge"]:
    """Return the edges of a text's grapheme clusters (Unicode UAX #29: a letter with its marks, ...).

    Returns:
        Positions in order, including 0 and the length of the text.

    >>> cluster_edges("e\u0301!").tolist()  # a letter with its accent, and a mark
    [0, 2, 3]
    """
    if text.isascii():  # only a line break of two characters combines, and whitespace is not ink
        return np.arange(len(text) + 1)
    return np.array([0, *(match.end() for match in _CLUSTER.finditer(text))])


def find_words(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Return the words between two positions: letters with marks, digits, inner hyphens and apostrophes.

    Characters of scripts without spaces between words belong to no word.

    >>> list(find_words("a man's hat", 0, 11))
    [(0, 1), (2, 7), (8, 11)]
    """
    return (match.span() for match in _WORD.finditer(text, start, end))


def cuts_word(text: str, position: int) -> bool:
    """Return whether a position is inside a word, or between a letter and its marks.

    >>> cuts_word("a horse", 4), cuts_word("a horse", 2)
    (True, False)
    """
    return _GOES_ON.match(text, position) is not None
