"""The split: which captions train a detector, choose its settings, and judge it on generators it has never seen."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from halspan.core.captions import Caption
from halspan.core.errors import DataError
from halspan.data.corpus import Corpus

PARTS = ("train", "val", "test_seen", "test_heldout")
TRAIN_SHARE = 0.70
VAL_SHARE = 0.15
_DIRECTION_PREFIX = "direction:"


@plain_dataclass(frozen=True, kw_only=True)
class SplitParts:
    """The captions of each part, in the order of the corpus.

    Attributes:
        train: captions of train generators on 70 % of their images.
        val: captions of train generators on 15 % of their images.
        test_seen: captions of train generators on the other images.
        test_heldout: captions of held-out generators on images in neither train nor val.
        train_generators: names.
        held_out_generators: names.
        unused: captions in no part, by generator: of generators that are neither, or on images of train or val.
        reasons: what is worth knowing about a part that is empty or has one class only.
        image_hashes: content of the image of each caption, by caption id.
    """

    train: tuple[Caption, ...]
    val: tuple[Caption, ...]
    test_seen: tuple[Caption, ...]
    test_heldout: tuple[Caption, ...]
    train_generators: tuple[str, ...]
    held_out_generators: tuple[str, ...]
    unused: Mapping[str, int]
    reasons: Mapping[str, str]
    image_hashes: Mapping[str, str]

    def parts(self) -> dict[str, tuple[Caption, ...]]:
        """The parts by name."""
        return {name: getattr(self, name) for name in PARTS}

    def to_record(self) -> dict[str, Any]:
        """Everything, ready for `split.json`."""
        return {
            "generators": {
                "train": list(self.train_generators),
                "held_out": list(self.held_out_generators),
            },
            "unused": dict(self.unused),
            "reasons": dict(self.reasons),
            "parts": {name: self._part_record(captions) for name, captions in self.parts().items()},
        }

    def _part_record(self, captions: Sequence[Caption]) -> dict[str, Any]:
        images = sorted({self.image_hashes[caption.id] for caption in captions})
        labels = Counter(sentence.label for caption in captions for sentence in caption.sentences)
        counts = {
            "captions": len(captions),
            "images": len(images),
            "sentences": labels.total(),
            "incorrect": labels["incorrect"],
            "unknown": labels["unknown"],
        }
        return {"n": counts, "captions": [caption.id for caption in captions], "images": images}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Split:
    """Which generators train and which are held out.

    Attributes:
        train: generators to train on, by name or as "direction:text_to_image"; None is every one not held out.
        held_out: generators that are never trained on, in the same notation.
    """

    train: tuple[str, ...] | None = None
    held_out: tuple[str, ...] = ()

    def apply(self, corpus: Corpus) -> SplitParts:
        """Divide a corpus.

        An image of the train generators belongs to train, val or test_seen by a hash of its content alone: neither its
        file name nor the other images matter. Where a part would be empty, the image nearest to it moves over.

        Raises:
            DataError: a name matches no generator, or a generator is on both sides; train, val or test_heldout is
                empty though it was asked for; train has one class only.
        """
        train, held_out = self._generators(corpus)
        hashes = {caption.id: corpus.image_hash(caption) for caption in corpus.captions}
        part_of = divide_images({hashes[c.id] for c in corpus.captions if c.generator in train})
        assigned: dict[str, list[Caption]] = {name: [] for name in PARTS}
        unused: Counter[str] = Counter()
        for caption in corpus.captions:
            part = part_of.get(hashes[caption.id], "test_seen")
            if caption.generator in held_out:
                part = "test_heldout" if part == "test_seen" else ""
            elif caption.generator not in train:
                part = ""
            if part:
                assigned[part].append(caption)
            else:
                unused[caption.generator] += 1
        parts = SplitParts(
            **{name: tuple(captions) for name, captions in assigned.items()},
            train_generators=train,
            held_out_generators=held_out,
            unused=unused,
            reasons=_reasons(assigned, held_out),
            image_hashes=hashes,
        )
        check_disjoint(parts)
        return parts

    def _generators(self, corpus: Corpus) -> tuple[tuple[str, ...], tuple[str, ...]]:
        held_out = match_generators("split.held_out", self.held_out, corpus)
        if self.train is None:
            train = tuple(name for name in corpus.generators if name not in held_out)
            if not train:
                raise DataError(f"split.held_out: {_names(held_out)} are all generators; leave one to train on")
            return train, held_out
        train = match_generators("split.train", self.train, corpus)
        if both := [name for name in train if name in held_out]:
            raise DataError(f"split.train: {both[0]!r} is in split.held_out too; a held-out generator trains nothing")
        if not train:
            raise DataError(f"split.train: names no generator; some of {_names(corpus.generators)}, or null for all")
        return train, held_out


def match_generators(key: str, patterns: Iterable[str], corpus: Corpus) -> tuple[str, ...]:
    """Find the generators that names and "direction:..." stand for, in alphabetical order.

    Args:
        key: where the patterns stand, for the message: "split.train".
        patterns: names of generators, or "direction:" with a direction.
        corpus: the corpus.

    Raises:
        DataError: a pattern matches nothing; the message lists what there is.
    """
    directions = {(caption.generator, caption.direction) for caption in corpus.captions}
    matched: set[str] = set()
    for pattern in patterns:
        names = {
            generator for generator, direction in directions if pattern in (generator, _DIRECTION_PREFIX + direction)
        }
        if not names:
            options = sorted({_DIRECTION_PREFIX + direction for _, direction in directions})
            raise DataError(
                f"{key}: {pattern!r} matches no generator; there are {_names((*corpus.generators, *options))}"
            )
        matched |= names
    return tuple(sorted(matched))


def divide_images(hashes: Iterable[str]) -> dict[str, str]:
    """Assign image contents to train, val and test_seen.

    The first 64 bits of the hash, as a fraction of 1, say which: below 0.70 train, below 0.85 val, else test_seen.
    Where one of them stays empty and another has two images or more, the image whose fraction is nearest moves over,
    train first, then val, then test_seen.

    Args:
        hashes: SHA-256 of the images' content, in hexadecimal.

    Returns:
        The part of each image.
    """
    ordered = sorted(set(hashes))
    n_train = sum(_fraction(hash_) < TRAIN_SHARE for hash_ in ordered)
    n_val = sum(_fraction(hash_) < TRAIN_SHARE + VAL_SHARE for hash_ in ordered) - n_train
    n_train, n_val = _at_least_one(n_train, n_val, len(ordered))
    names = ["train"] * n_train + ["val"] * n_val + ["test_seen"] * (len(ordered) - n_train - n_val)
    return dict(zip(ordered, names, strict=True))


def check_disjoint(parts: SplitParts) -> None:
    """Require that no image content is in two of train, val and the tests, and no held-out generator in train or val.

    Raises:
        DataError: one is.
    """
    images = {name: {parts.image_hashes[c.id] for c in captions} for name, captions in parts.parts().items()}
    for first, second in (("train", "val"), ("train", "test_seen"), ("val", "test_seen")):
        if shared := images[first] & images[second]:
            raise DataError(f"split: image {min(shared)} is in {first} and in {second}")
    for part in ("train", "val"):
        if shared := images[part] & images["test_heldout"]:
            raise DataError(f"split: image {min(shared)} is in {part} and in test_heldout")
        generators = {caption.generator for caption in getattr(parts, part)}
        if seen := generators & set(parts.held_out_generators):
            raise DataError(f"split: held-out generator {min(seen)!r} is in {part}")


def _fraction(hash_: str) -> float:
    return int(hash_[:16], 16) / 2**64


def _at_least_one(n_train: int, n_val: int, n_images: int) -> tuple[int, int]:
    """Shift the two cuts as little as possible so that, in this order, train, val and test_seen get an image."""
    cuts = [n_train, n_train + n_val]
    if n_images >= 3:
        first = min(max(cuts[0], 1), n_images - 2)
        return first, min(max(cuts[1], first + 1), n_images - 1) - first
    return min(n_images, 1), n_images - min(n_images, 1)


def _reasons(parts: Mapping[str, Sequence[Caption]], held_out: Sequence[str]) -> dict[str, str]:
    """Why a part cannot be fully judged; an error where nothing could be trained or what was asked for is not there."""
    if not parts["val"]:
        raise DataError("split: val is empty, as the train generators have captions of one image only; add images")
    if held_out and not parts["test_heldout"]:
        raise DataError(
            f"split.held_out: test_heldout is empty, as every image of {_names(held_out)} is in train or val too; "
            "add images that the train generators do not share, or hold out other generators"
        )
    reasons = {"test_heldout": "split.held_out names no generator"} if not held_out else {}
    if not parts["test_seen"]:
        reasons["test_seen"] = "empty: the train generators have captions of fewer than three images"
    for name, captions in parts.items():
        if name in reasons:
            continue
        labels = Counter(sentence.label for caption in captions for sentence in caption.sentences)
        if labels["correct"] and labels["incorrect"]:
            continue
        problem = f"one class only: {labels['correct']} correct and {labels['incorrect']} incorrect sentences"
        if name == "train":
            raise DataError(f"split: train has {problem}; train on other generators, or label more captions")
        reasons[name] = problem
    return reasons


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
