"""Texts that occur more than once: what counts as the same text, and what of some captions stands in others."""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import regex

from halspan.core.captions import Caption


def normalize_text(text: str) -> str:
    """Return the form in which two texts are compared: white space, case and Unicode composition make no difference.

    >>> normalize_text(" A  red Door.")
    'a red door.'
    """
    safe = _MARKS.sub("\\g<0>\u034f", text)  # Python sorts a run of marks in quadratic time
    return unicodedata.normalize("NFC", " ".join(safe.split()).casefold())


# More marks on one letter than any language has; U+034F between them ends a run (UAX #15, Stream-Safe Text Format).
_MARKS = regex.compile(r"\p{M}{30}")


@dataclass(frozen=True, slots=True)
class KnownTexts:
    """The texts of some captions, to find them again in others; held as hashes, which a run can leave behind.

    Attributes:
        captions: hashes of whole texts, see `hash_text`.
        sentences: hashes of the texts of single sentences.
    """

    captions: frozenset[str] = frozenset()
    sentences: frozenset[str] = frozenset()

    @classmethod
    def of(cls, captions: Iterable[Caption]) -> Self:
        """Collect the texts of captions and of their sentences."""
        captions = tuple(captions)
        return cls(
            frozenset(hash_text(caption.text) for caption in captions),
            frozenset(hash_ for caption in captions for hash_ in _hash_sentences(caption)),
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Sequence[str]]) -> Self:
        """Read what `to_record` returned."""
        return cls(frozenset(record["captions"]), frozenset(record["sentences"]))

    def to_record(self) -> dict[str, list[str]]:
        """Return the hashes as a JSON object, sorted."""
        return {"captions": sorted(self.captions), "sentences": sorted(self.sentences)}

    def __or__(self, other: "KnownTexts") -> "KnownTexts":
        return KnownTexts(self.captions | other.captions, self.sentences | other.sentences)

    def find_sentences(self, caption: Caption) -> tuple[bool, ...]:
        """Say of each sentence whether it is known: its own text is, or that of the whole caption."""
        if self.has_caption(caption):
            return (True,) * len(caption.sentences)
        return tuple(hash_ in self.sentences for hash_ in _hash_sentences(caption))

    def has_caption(self, caption: Caption) -> bool:
        """Say whether the whole text is known."""
        return hash_text(caption.text) in self.captions

    def count(self, captions: Iterable[Caption]) -> dict[str, int]:
        """Count how many captions and sentences of others are known."""
        n_captions = n_sentences = 0
        for caption in captions:
            n_captions += self.has_caption(caption)
            n_sentences += sum(self.find_sentences(caption))
        return {"captions": n_captions, "sentences": n_sentences}


def hash_text(text: str) -> str:
    """Return the first 64 bits of the SHA-256 of a normalized text, in hexadecimal."""
    return hashlib.sha256(normalize_text(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _hash_sentences(caption: Caption) -> list[str]:
    return [hash_text(caption.text[sentence.start : sentence.end]) for sentence in caption.sentences]
