"""Repeated texts: when two texts count as the same, and which texts of some captions occur in others."""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import regex

from halspan.core.captions import Caption


def normalize_text(text: str) -> str:
    """Return the form in which texts are compared, without differences of whitespace, case and composition.

    >>> normalize_text(" A  red Door.")
    'a red door.'
    """
    safe = _MARKS.sub("\\g<0>\u034f", text)  # Python needs quadratic time to sort a run of marks
    return unicodedata.normalize("NFC", " ".join(safe.split()).casefold())


# More marks on one letter than any language uses; U+034F between them ends a run (UAX #15, Stream-Safe Text Format).
_MARKS = regex.compile(r"\p{M}{30}")


@dataclass(frozen=True, slots=True)
class KnownTexts:
    """The texts of some captions, to find them again in others; stored as hashes, so a run can keep them.

    Attributes:
        captions: Hashes of whole texts, see `hash_text`.
        sentences: Hashes of the texts of single sentences.
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
        """Return whether each sentence is known, because its own text or that of the whole caption is."""
        if self.has_caption(caption):
            return (True,) * len(caption.sentences)
        return tuple(hash_ in self.sentences for hash_ in _hash_sentences(caption))

    def has_caption(self, caption: Caption) -> bool:
        """Return whether the whole text is known."""
        return hash_text(caption.text) in self.captions

    def count(self, captions: Iterable[Caption]) -> dict[str, int]:
        """Count how many of other captions, and of their sentences, are known."""
        n_captions = n_sentences = 0
        for caption in captions:
            n_captions += self.has_caption(caption)
            n_sentences += sum(self.find_sentences(caption))
        return {"captions": n_captions, "sentences": n_sentences}


def hash_text(text: str) -> str:
    """Return the first 64 bits of the SHA-256 of a normalized text, in hexadecimal.

    >>> hash_text("A red door.") == hash_text(" a  RED door.")
    True
    """
    return hashlib.sha256(normalize_text(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _hash_sentences(caption: Caption) -> list[str]:
    return [hash_text(caption.text[sentence.start : sentence.end]) for sentence in caption.sentences]
