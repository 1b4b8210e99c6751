"""Character ranges that do not fit the words of their text, and the ranges that were probably meant."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from halspan.core.alignment import Ranged
from halspan.core.text.graphemes import find_words

_JOINTS = "-'’"  # part of a word, but a range may begin or end there: man's, well-lit
_HANGUL = ("가", "힣")  # particles follow a Korean word without a space, so it may end anywhere
_SHIFTS = (-1, 1, -2, 2)  # common offsets of annotation: a leading space, counting from 1, both

Range = tuple[int, int]


@dataclass(frozen=True)
class WordMap:
    """Positions of the words of a text.

    Attributes:
        text: The text.
    """

    text: str

    @cached_property
    def words(self) -> list[Range]:
        """Return the words, in order."""
        return list(find_words(self.text, 0, len(self.text)))

    def fits(self, start: int, end: int) -> bool:
        """Return whether a range cuts no word, and has no space at its ends."""
        piece = self.text[start:end]
        return piece == piece.strip() and not self.cuts(start, end)

    def cuts(self, start: int, end: int) -> bool:
        """Return whether a range begins or ends inside a word."""
        return self._is_inside(start) or self._is_inside(end)

    def find_left_out(self, sentences: Sequence[Ranged]) -> list[Range]:
        """Return the words that begin in none of the sentences, which are in order."""
        starts = [0, *(sentence.end for sentence in sentences)]
        ends = [*(sentence.start for sentence in sentences), len(self.text)]
        gaps = [(start, end) for start, end in zip(starts, ends, strict=True) if self.text[start:end].strip()]
        return [word for word in self.words if any(start <= word[0] < end for start, end in gaps)] if gaps else []

    def suggest(self, start: int, end: int) -> Range:
        """Suggest the range that was probably meant by one that does not fit.

        This is a fitting range of the same length, shifted by one or two characters; if there is none, the words that
        the range touches.

        >>> WordMap("A man rides a horse today.").suggest(15, 20)
        (14, 19)
        """
        return next(self._moved(start, end), None) or self.widen(start, end)

    def widen(self, start: int, end: int) -> Range:
        """Return a range widened to whole words, without the spaces at its ends."""
        touched = [word for word in self.words if word[0] < end and start < word[1]]
        piece = self.text[start:end]
        first = start + len(piece) - len(piece.lstrip())
        last = end - len(piece) + len(piece.rstrip())
        if not touched:
            return (first, last) if first < last else (start, end)
        first = touched[0][0] if self._is_inside(first) else first
        last = touched[-1][1] if self._is_inside(last) else last
        return first, last

    def show(self, start: int, end: int) -> str:
        """Return the characters and the numbers of a range, for a message."""
        return f"{self.text[start:end]!r} [{start}, {end})"

    def _is_inside(self, position: int) -> bool:
        """Return whether a position is between two characters of one word."""
        if not 0 < position < len(self.text):
            return False
        before, after = self.text[position - 1], self.text[position]
        if before.isascii() and after.isascii():  # for ASCII, the pattern of words gives the same answer faster
            return before.isalnum() and after.isalnum()
        return not _is_joint(before, after) and any(start < position < end for start, end in self.words)

    def _moved(self, start: int, end: int) -> Iterator[Range]:
        for shift in _SHIFTS if self.cuts(start, end) else ():
            first, last = start + shift, end + shift
            piece = self.text[max(first, 0) : last]
            is_inside = first >= 0 and last <= len(self.text)
            if is_inside and piece[:1].isalnum() and piece[-1:].isalnum() and self.fits(first, last):
                yield first, last


def _is_joint(before: str, after: str) -> bool:
    return before in _JOINTS or after in _JOINTS or _HANGUL[0] <= before <= _HANGUL[1]
