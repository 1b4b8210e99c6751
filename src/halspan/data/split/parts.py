"""The split: captions that train a detector, choose its settings, and judge it on unseen generators."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from halspan.core.captions import Caption
from halspan.core.checks import ask_if_meant
from halspan.core.errors import ConfigError, DataError
from halspan.core.text.known_texts import KnownTexts, normalize_text
from halspan.data.corpus import Corpus
from halspan.data.split.division import DIVIDED, TEST_SHARE, VAL_SHARE, divide_images, group_images

logger = logging.getLogger(__name__)

TRAIN, VAL, TEST_SEEN, HELD_OUT = "train", "val", "test_seen", "test_heldout"
PARTS = (TRAIN, VAL, TEST_SEEN, HELD_OUT)
_TRAINED = (TRAIN, VAL)
_DIRECTION_PREFIX = "direction:"

IMAGE_TAKEN = "their images are in train or val"
TEXT_TAKEN = "their texts are in train or val"
NOT_CHOSEN = "their generators are in neither split.train nor split.held_out"

_Share = Annotated[float, Field(gt=0, lt=1)]


@plain_dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Captions that are in no part, for one reason.

    Attributes:
        part: Part they would be in; None if there is none.
        reason: Reason, as a clause: "their images are in train or val".
        by_generator: Number of captions of each generator.
    """

    part: str | None
    reason: str
    by_generator: Mapping[str, int]

    @property
    def n(self) -> int:
        """Return the number of captions."""
        return sum(self.by_generator.values())

    def __str__(self) -> str:
        names = ", ".join(f"{name} {n:,}" for name, n in self.by_generator.items())
        return f"{self.reason} ({names})"

    def to_record(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {"part": self.part, "reason": self.reason, "by_generator": dict(self.by_generator)}


@plain_dataclass(frozen=True, kw_only=True)
class Taken:
    """Captions and texts that training took from the captions that judge a detector.

    Attributes:
        texts: Texts of train; None where they are not known.
        left_out: Captions that are in no part.
    """

    texts: KnownTexts | None
    left_out: tuple[LeftOut, ...] = ()


def describe_left_out(part: str, n_kept: int, left_out: Iterable[LeftOut]) -> str:
    """Describe how many captions of a part are left out, and why; empty where all are kept."""
    of_part = [each for each in left_out if each.part == part]
    n = sum(each.n for each in of_part)
    return f"{n:,} of {n + n_kept:,} captions are left out: {'; '.join(map(str, of_part))}" if n else ""


@plain_dataclass(frozen=True, kw_only=True)
class SplitParts:
    """The captions of each part, in the order of the corpus.

    Attributes:
        train: Captions of train generators on most of their images.
        val: Captions of train generators on some of their images.
        test_seen: Captions of train generators on the other images.
        test_heldout: Captions of held-out generators on images in neither train nor val.
        train_generators: Names of the train generators.
        held_out_generators: Names of the held-out generators.
        left_out: Captions in no part: of generators that are neither, or on images of train or val.
        reasons: Remarks about parts that are empty or have one class only.
        image_hashes: Hash of each caption's image, by caption id.
        texts_together: Whether no text of train or val is in another part.
    """

    train: tuple[Caption, ...]
    val: tuple[Caption, ...]
    test_seen: tuple[Caption, ...]
    test_heldout: tuple[Caption, ...]
    train_generators: tuple[str, ...]
    held_out_generators: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    reasons: Mapping[str, str]
    image_hashes: Mapping[str, str]
    texts_together: bool = False

    @property
    def unused(self) -> dict[str, int]:
        """Return the number of captions of each generator that are in no part."""
        return dict(sum((Counter(each.by_generator) for each in self.left_out), Counter[str]()))

    def parts(self) -> dict[str, tuple[Caption, ...]]:
        """Return the parts by name."""
        return {name: getattr(self, name) for name in PARTS}

    @cached_property
    def train_texts(self) -> KnownTexts:
        """Return the texts of train."""
        return KnownTexts.of(self.train)

    @cached_property
    def known_texts(self) -> dict[str, dict[str, int]]:
        """Return how many captions and sentences of each other part have a text that occurs in train."""
        return {name: self.train_texts.count(captions) for name, captions in self.parts().items() if name != "train"}

    @property
    def taken(self) -> Taken:
        """Return the captions and texts that training took from the other parts."""
        return Taken(texts=self.train_texts, left_out=self.left_out)

    def to_record(self) -> dict[str, Any]:
        """Return the JSON object of `split.json`."""
        return {
            "generators": {
                "train": list(self.train_generators),
                "held_out": list(self.held_out_generators),
            },
            "unused": self.unused,
            "left_out": [each.to_record() for each in self.left_out],
            "texts": {
                "kept_together": self.texts_together,
                "in_train": self.known_texts,
                "train": self.train_texts.to_record(),
            },
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
    """The generators that train and those held out, and the division of the images.

    Attributes:
        train: Generators to train on, by name or as "direction:text_to_image"; None for all that are not held out.
        held_out: Generators that are never trained on, in the same notation; `apply` refuses None, and lists the
            generators.
        val_share: Share of the train generators' images in val.
        test_share: Share of the train generators' images in neither train nor val. Captions of train generators of
            these images are test_seen. Held-out generators that caption the same images are judged on these alone.
        held_out_share: The same share of the images that held-out generators caption, too; None for `test_share`. A
            larger share judges more held-out captions, and takes no other images from training.
        keep_texts_together: Whether images whose captions share a text are kept in one part, and captions of held-out
            generators with a text of train or val are left out. Only whole captions are compared, because single
            sentences link nearly all images of a corpus with short sentences.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value is not possible.
    """

    train: tuple[str, ...] | None = None
    held_out: tuple[str, ...] | None = ()
    val_share: _Share = VAL_SHARE
    test_share: _Share = TEST_SHARE
    held_out_share: _Share | None = None
    keep_texts_together: Annotated[bool, Field(strict=True)] = False

    def __post_init__(self) -> None:
        for name, share in (("test_share", self.test_share), ("held_out_share", self.held_out_share or 0)):
            if self.val_share + share >= 1:
                raise ValueError(
                    f"val_share {self.val_share} and {name} {share} leave no images to train on; lower one of them"
                )

    def apply(self, corpus: Corpus) -> SplitParts:
        """Divide a corpus.

        A hash of its content determines whether an image of the train generators is in train, val or test_seen; its
        file name and the other images do not matter. If a part would be empty, the nearest image moves there. With
        `keep_texts_together`, the same holds for groups of images that share a text.

        Raises:
            ConfigError: `held_out` is None.
            DataError: A name matches no generator, or a generator is on both sides; train, val or test_heldout is
                empty though it was asked for; train has one class only.
        """
        train, held_out = self._generators(corpus)
        hashes = {caption.id: corpus.image_hash(caption) for caption in corpus.captions}
        part_of = self._divide(corpus.captions, train, held_out, hashes)
        assigned, left_out = self._assign(corpus.captions, train, held_out, hashes, part_of)
        parts = SplitParts(
            **{name: tuple(captions) for name, captions in assigned.items()},
            train_generators=train,
            held_out_generators=held_out,
            left_out=left_out,
            reasons=_reasons(assigned, left_out, held_out, has_groups=self.keep_texts_together),
            image_hashes=hashes,
            texts_together=self.keep_texts_together,
        )
        check_disjoint(parts)
        _log(parts)
        return parts

    def _divide(
        self, captions: Sequence[Caption], train: Sequence[str], held_out: Sequence[str], hashes: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the part of each image of the train generators."""
        own = [caption for caption in captions if caption.generator in train]
        text_of = {c.id: normalize_text(c.text) if self.keep_texts_together else hashes[c.id] for c in own}
        group_of = group_images((hashes[caption.id], text_of[caption.id]) for caption in own)
        others = {hashes[caption.id] for caption in captions if caption.generator in held_out}
        part_of = divide_images(
            group_of.values(),
            val_share=self.val_share,
            test_share=self.test_share,
            shared={group for image, group in group_of.items() if image in others},
            shared_test_share=self.held_out_share,
        )
        return {image: part_of[group] for image, group in group_of.items()}

    def _assign(
        self,
        captions: Sequence[Caption],
        train: Sequence[str],
        held_out: Sequence[str],
        hashes: Mapping[str, str],
        part_of: Mapping[str, str],
    ) -> tuple[dict[str, list[Caption]], tuple[LeftOut, ...]]:
        """Return the captions of each part, and those in none."""
        assigned: dict[str, list[Caption]] = {name: [] for name in PARTS}
        for caption in captions:
            if caption.generator in train:
                assigned[part_of[hashes[caption.id]]].append(caption)
        taken = KnownTexts.of(assigned["train"] + assigned["val"] if self.keep_texts_together else ())
        left_out: defaultdict[tuple[str | None, str], Counter[str]] = defaultdict(Counter)
        for caption in (each for each in captions if each.generator not in train):
            if caption.generator not in held_out:
                left_out[None, NOT_CHOSEN][caption.generator] += 1
            elif part_of.get(hashes[caption.id]) in _TRAINED:
                left_out["test_heldout", IMAGE_TAKEN][caption.generator] += 1
            elif taken.has_caption(caption):
                left_out["test_heldout", TEXT_TAKEN][caption.generator] += 1
            else:
                assigned["test_heldout"].append(caption)
        return assigned, tuple(
            LeftOut(part=part, reason=reason, by_generator=dict(counts)) for (part, reason), counts in left_out.items()
        )

    def _generators(self, corpus: Corpus) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self.held_out is None:
            raise ConfigError(
                f"split.held_out: missing; choose what is never trained on, of {_names(corpus.generators)}: "
                "split.held_out='[NAME,...]', or [] to hold out none"
            )
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
    """Return the generators that names and "direction:..." match, in alphabetical order.

    Args:
        key: Configuration key of the patterns, for the message: "split.train".
        patterns: Names of generators, or "direction:" with a direction.
        corpus: The corpus.

    Raises:
        DataError: A pattern matches nothing; the message lists the generators.
    """
    directions = {(caption.generator, caption.direction) for caption in corpus.captions}
    matched: set[str] = set()
    for pattern in patterns:
        names = {
            generator for generator, direction in directions if pattern in (generator, _DIRECTION_PREFIX + direction)
        }
        if not names:
            options = (*corpus.generators, *sorted({_DIRECTION_PREFIX + direction for _, direction in directions}))
            hint = ask_if_meant(pattern, options)
            raise DataError(f"{key}: {pattern!r} matches no generator; {hint}there are {_names(options)}")
        matched |= names
    return tuple(sorted(matched))


def check_disjoint(parts: SplitParts) -> None:
    """Require that train, val and tests share no image, and that held-out generators are in neither train nor val.

    Where texts are kept together, the same is required of texts.

    Raises:
        DataError: The parts overlap.
    """
    images = {name: {parts.image_hashes[c.id] for c in captions} for name, captions in parts.parts().items()}
    for first, second in combinations(DIVIDED, 2):
        if shared := images[first] & images[second]:
            raise DataError(f"split: image {min(shared)} is in {first} and in {second}")
    for part in _TRAINED:
        if shared := images[part] & images["test_heldout"]:
            raise DataError(f"split: image {min(shared)} is in {part} and in test_heldout")
        generators = {caption.generator for caption in getattr(parts, part)}
        if seen := generators & set(parts.held_out_generators):
            raise DataError(f"split: held-out generator {min(seen)!r} is in {part}")
    if parts.texts_together:
        _check_texts_disjoint(parts)


def _check_texts_disjoint(parts: SplitParts) -> None:
    texts = {name: {normalize_text(c.text): c.id for c in captions} for name, captions in parts.parts().items()}
    for first, second in (*combinations(DIVIDED, 2), ("train", "test_heldout"), ("val", "test_heldout")):
        if shared := texts[first].keys() & texts[second].keys():
            one, other = texts[first][min(shared)], texts[second][min(shared)]
            raise DataError(f"split: captions {one!r} in {first} and {other!r} in {second} have the same text")


def _reasons(
    parts: Mapping[str, Sequence[Caption]], left_out: Iterable[LeftOut], held_out: Sequence[str], *, has_groups: bool
) -> dict[str, str]:
    """Return reasons why parts cannot be fully judged; raise where training is impossible or a part is missing."""
    what = "groups of images that share texts (split.keep_texts_together)" if has_groups else "images"
    if not parts["val"]:
        raise DataError(
            f"split: val is empty, as the train generators have captions of fewer than two {what}; add images"
        )
    if held_out and not parts["test_heldout"]:
        raise DataError(
            f"split.held_out: test_heldout is empty: {describe_left_out('test_heldout', 0, left_out)}; raise "
            "split.held_out_share, add images that the train generators do not share, or hold out other generators"
        )
    reasons = {"test_heldout": "split.held_out names no generator"} if not held_out else {}
    if not parts["test_seen"]:
        reasons["test_seen"] = f"empty: the train generators have captions of fewer than three {what}"
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


def _log(parts: SplitParts) -> None:
    """Log which captions are not judged, and which texts a detector may have memorized."""
    if gone := describe_left_out("test_heldout", len(parts.test_heldout), parts.left_out):
        logger.warning("split: test_heldout: %s; a larger split.held_out_share keeps more", gone)
    known = {
        name: f"{name} ({counts['captions']:,} of {len(captions):,} captions, {counts['sentences']:,} of "
        f"{sum(len(caption.sentences) for caption in captions):,} sentences)"
        for name, counts in parts.known_texts.items()
        if counts["sentences"] and (captions := getattr(parts, name))
    }
    can_help = any(counts["captions"] for counts in parts.known_texts.values())  # it looks at whole captions only
    if known:
        logger.warning(
            "split: texts of train occur in %s; without_train_texts in metrics.json has the figures without them%s",
            ", ".join(known.values()),
            "; split.keep_texts_together=true keeps captions of one text in one part" if can_help else "",
        )


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
