"""The content of a corpus at the start of a run, as hashes that later show which captions have changed."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from halspan.core.captions import Caption
from halspan.data.corpus import Corpus
from halspan.data.split.parts import SplitParts

logger = logging.getLogger(__name__)

_TEXT = ("generator", "direction", "text")
_ANNOTATION = ("sentences", "spans")
_HEX_DIGITS = 12  # digits of each hash: 48 bits are enough to detect an edit


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Hashes of the captions' texts, their annotation, and their images.

    Attributes:
        captions: By caption id, in the order of the corpus, hashes of its text (with generator and direction), of its
            annotation (sentences with labels and votes, spans) and of its image's content.
        files: Hash of the groups of captions that share an image file, and so a row.
    """

    captions: Mapping[str, tuple[str, str, str]]
    files: str

    @classmethod
    def of(cls, captions: Iterable[Caption], image_hashes: Mapping[str, str]) -> Self:
        """Collect the hashes of captions.

        Args:
            captions: Captions of one corpus.
            image_hashes: Hash of each caption's image, by caption id.
        """
        captions = tuple(captions)
        numbers: dict[str, int] = {}
        files = [numbers.setdefault(caption.image, len(numbers)) for caption in captions]
        hashed = {caption.id: _hash_caption(caption, image_hashes[caption.id]) for caption in captions}
        return cls(captions=hashed, files=hash_json(files))

    @classmethod
    def of_corpus(cls, corpus: Corpus) -> Self:
        """Collect the hashes of a whole corpus, which reads its images."""
        return cls.of(corpus.captions, {caption.id: corpus.image_hash(caption) for caption in corpus.captions})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_record` returned."""
        hashes = {id_: tuple(line.split()) for id_, line in record["captions"].items()}
        return cls(captions=hashes, files=record["files"])

    def to_record(self) -> dict[str, Any]:
        """Return the hashes as a JSON object, those of a caption in one line."""
        return {"files": self.files, "captions": {id_: " ".join(hashes) for id_, hashes in self.captions.items()}}

    @property
    def digest(self) -> str:
        """Return one hash of all captions, whatever their order."""
        return hash_json(sorted(self.captions.items()))

    def find_changes(self, now: "Contents", *, in_order: bool) -> list[str]:
        """Describe what is different now; empty where the corpus is the same, even at another place.

        Args:
            now: Hashes of the corpus as it is now.
            in_order: Whether the order of captions and the sharing of image files matter, as they do in training.
        """
        shared = [id_ for id_ in self.captions if id_ in now.captions]
        changes = [*_compare_ids(self.captions, now.captions)]
        for place, what in enumerate(("another text or generator", "other labels, spans or votes", "another image")):
            changed = [id_ for id_ in shared if self.captions[id_][place] != now.captions[id_][place]]
            changes += _name_first(changed, f"{{}} {{has}} {what}")
        if in_order and not changes:
            changes += _compare_order(list(self.captions), list(now.captions))
        if in_order and not changes and self.files != now.files:
            changes.append("other captions share an image file than did")
        return changes


def find_changes(split: Mapping[str, Any], corpus: Corpus, parts: SplitParts, *, in_order: bool) -> list[str]:
    """Describe how a corpus and its parts differ from those at the start of a run.

    Runs of older versions have no hashes in their `split.json`. For these, only caption ids, image contents and parts
    are compared, and a message says so.

    Args:
        split: Content of the run's `split.json`.
        corpus: Corpus as it is now.
        parts: Its parts, divided as those of the run.
        in_order: Whether the order of captions matters, as it does in training.
    """
    if saved := split.get("contents"):
        now = Contents.of(corpus.captions, parts.image_hashes)
        if changes := Contents.from_record(saved).find_changes(now, in_order=in_order):
            return changes
    else:
        logger.warning(
            "split.json has no hashes of texts and labels: only ids, images and parts of captions are compared"
        )
    return _compare_parts(split["parts"], parts, in_order=in_order)


def _compare_parts(then: Mapping[str, Any], parts: SplitParts, *, in_order: bool) -> list[str]:
    was = {id_: part for part, record in then.items() for id_ in record["captions"]}
    now = {caption.id: part for part, captions in parts.parts().items() for caption in captions}
    changes = [*_compare_ids(was, now)]
    moved = [id_ for id_, part in was.items() if now.get(id_, part) != part]
    changes += _name_first(moved, "{} {is} in another part")
    for part, captions in parts.parts().items():
        images = {parts.image_hashes[caption.id] for caption in captions}
        if n_gone := len(set(then[part]["images"]) - images):
            changes.append(f"{part}: the contents of {n_gone:,} images are gone")
    if in_order and not changes:
        for part, captions in parts.parts().items():
            changes += _compare_order(then[part]["captions"], [caption.id for caption in captions])
    return changes


def _compare_ids(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    yield from _name_first([id_ for id_ in then if id_ not in now], "{} of the run {is} not there")
    yield from _name_first([id_ for id_ in now if id_ not in then], "{} {is} new")


def _compare_order(then: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    differing = [(one, other) for one, other in zip(then, now, strict=True) if one != other]
    if differing:
        yield f"captions are in another order (first: {differing[0][1]!r} where {differing[0][0]!r} stood)"


def _name_first(ids: Sequence[str], what: str) -> list[str]:
    """Describe captions with one change by their number and the first one; empty where there are none."""
    if not ids:
        return []
    n, verbs = len(ids), ({"is": "is", "has": "has"} if len(ids) == 1 else {"is": "are", "has": "have"})
    return [what.format(f"{n:,} caption{'s' * (n > 1)}", **verbs) + f" (first: {ids[0]!r})"]


def _hash_caption(caption: Caption, image: str) -> tuple[str, str, str]:
    record = caption.to_record()
    text, annotation = ([record[key] for key in keys] for keys in (_TEXT, _ANNOTATION))
    return hash_json(text), hash_json(annotation), image[:_HEX_DIGITS]


def hash_json(value: Any) -> str:
    """Return the first 48 bits of the SHA-256 of a JSON value, in hexadecimal; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_HEX_DIGITS]
