"""A corpus: captions, where their images lie, and an account of what could not be used."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from halspan.core.captions import Caption
from halspan.core.errors import DataError
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.images import check_image_file, content_hash

logger = logging.getLogger(__name__)

OnProblem = Literal["raise", "skip"]
Share = Annotated[float, Field(ge=0, le=1)]
EXAMPLES = 5  # problems of each kind that are remembered in full


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Captions of one source, all of whose images are there.

    Attributes:
        name: short name, for tables.
        captions: ids are unique.
        image_root: folder that relative image paths start from.
        taxonomy: hallucination types the annotations may use, in the order of a detector's type scores.
        skipped: what a reader left out: count by reason.
        source: where the corpus came from: reader, path, commit, ...
        notes: what a reader found worth knowing, ready for JSON: forms met, how error words matched, examples, ...

    Raises:
        DataError: there is no caption, an id occurs twice, or a type is not in the taxonomy.
    """

    name: str
    captions: tuple[Caption, ...]
    image_root: Path
    taxonomy: tuple[str, ...] = HALLUCINATION_TYPES
    skipped: Mapping[str, int] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.captions:
            first = next(
                (f"; first: {problems[0]}" for problems in self.notes.get("examples", {}).values() if problems), ""
            )
            left_out = ", ".join(f"{reason} {count}" for reason, count in self.skipped.items()) or "nothing"
            raise DataError(
                f"corpus {self.name}: no caption can be used (left out: {left_out}{first}); repair the records or give "
                "another data.path"
            )
        ids = Counter(caption.id for caption in self.captions)
        if repeated := [id_ for id_, count in ids.items() if count > 1]:
            raise DataError(f"corpus {self.name}: id {repeated[0]!r} occurs {ids[repeated[0]]} times; make ids unique")
        if unknown := types_of(self.captions) - set(self.taxonomy):
            raise DataError(
                f"corpus {self.name}: type {min(unknown)!r} is not in its taxonomy; one of {', '.join(self.taxonomy)}"
            )

    @property
    def generators(self) -> tuple[str, ...]:
        """Every generator, in alphabetical order."""
        return tuple(sorted({caption.generator for caption in self.captions}))

    def image_path(self, caption: Caption) -> Path:
        """Where the caption's image lies."""
        return self.image_root / caption.image

    def image_hash(self, caption: Caption) -> str:
        """The content of the caption's image, see `content_hash`."""
        return content_hash(self.image_path(caption))

    def relocated(self, folder: Path | None) -> "Corpus":
        """Write image paths relative to another folder, or absolute (None), so that they resolve from a file there."""
        root = self.image_root.resolve()

        def moved(image: str) -> str:
            path = root / image
            return str(path) if folder is None else Path(os.path.relpath(path, folder.resolve())).as_posix()

        captions = tuple(replace(caption, image=moved(caption.image)) for caption in self.captions)
        return replace(self, captions=captions, image_root=root if folder is None else folder)


class Skips:
    """What a reader cannot use: raised at the first occurrence, or counted by reason with the first few examples.

    Args:
        on_error: "raise" or "skip".
    """

    def __init__(self, on_error: OnProblem) -> None:
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, problem: str) -> None:
        """Raise the problem or count it.

        Args:
            reason: what is left out and why, in the plural: "malformed records".
            problem: where, the value seen, why it cannot be and what to do.

        Raises:
            DataError: the problem, if problems are to be raised.
        """
        if self.on_error == "raise":
            raise DataError(f"{problem} (data.on_error=skip leaves out and counts {reason})")
        self.count(reason, problem)

    def count(self, reason: str, problem: str) -> None:
        """Count a problem that never stops a reader."""
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(problem)

    def log(self) -> None:
        """Say what was left out, with one example each."""
        for reason, count in self.counts.items():
            logger.warning("left out: %s: %d, first: %s", reason, count, self.examples[reason][0])


def find_corpus_file(path: Path, patterns: tuple[str, ...]) -> Path:
    """Find a corpus's file: the path itself, or the only file in the folder that fits the first pattern that any fits.

    Raises:
        DataError: there is no such path, or the folder holds no such file or several.
    """
    path = path.expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"data.path: {str(path)!r} does not exist; give a corpus's file or its folder")
    found: list[Path] = next((files for pattern in patterns if (files := sorted(path.glob(pattern)))), [])
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise DataError(f"data.path: {str(path)!r} holds several corpora ({names}); give one of these files")
    names = ", ".join(sorted(file.name for file in path.iterdir())[:10]) or "nothing"
    raise DataError(
        f"data.path: {str(path)!r} holds no corpus ({' or '.join(patterns)}), only {names}; "
        "give the file, or a folder that contains it"
    )


def find_image_root(images: Path | None, default: Path) -> Path:
    """Choose the folder that image paths start from: `data.images`, else the default.

    Raises:
        DataError: `data.images` is not a folder.
    """
    if images is None:
        return default
    images = images.expanduser()
    if not images.is_dir():
        raise DataError(f"data.images: {str(images)!r} is not a folder; give the one that holds the images, or null")
    return images


def join_sentences(texts: Iterable[str]) -> tuple[str, list[tuple[int, int]]]:
    """Join sentences by one space, without the whitespace around them, to a text and their character ranges in it."""
    stripped = [text.strip() for text in texts]
    ranges, start = [], 0
    for text in stripped:
        ranges.append((start, start + len(text)))
        start += len(text) + 1
    return " ".join(stripped), ranges


def keep_with_images(
    captions: Iterable[Caption], root: Path, *, missing_image: OnProblem, min_images: float, skips: Skips
) -> tuple[Caption, ...]:
    """Keep the captions whose image is there and, as far as can be told without decoding it, readable.

    Args:
        captions: captions with image paths relative to `root`, or absolute.
        root: folder that relative image paths start from.
        missing_image: "raise", or "skip" to leave out and count captions without a usable image.
        min_images: least share of usable images, 0 to 1.
        skips: where the captions left out are counted.

    Raises:
        DataError: an image cannot be used and `missing_image` is "raise", or too few can be used.
    """
    captions = tuple(captions)
    problems = _image_problems(captions, root)
    if not problems:
        return captions
    n_images = len({caption.image for caption in captions})
    share = 1 - len(problems) / n_images
    first = next(iter(problems.values()))[1]
    summary = (
        f"{n_images - len(problems)} of {n_images} images can be used ({share:.1%}), the first that cannot: {first}"
    )
    if missing_image == "raise":
        raise DataError(
            f"{summary} (data.images names their folder, data.missing_image=skip leaves out their captions)"
        )
    if share < min_images:
        raise DataError(
            f"{summary}; fewer than data.min_images={min_images}: set data.images to their folder or lower it"
        )
    logger.warning(summary)
    for caption in captions:
        if caption.image in problems:
            skips.count(*problems[caption.image])
    return tuple(caption for caption in captions if caption.image not in problems)


def types_of(captions: Iterable[Caption]) -> set[str]:
    """Every hallucination type named by a sentence or a span."""
    types = {name for caption in captions for sentence in caption.sentences for name in sentence.types}
    return types | {span.type for caption in captions for span in caption.spans if span.type is not None}


def _image_problems(captions: tuple[Caption, ...], root: Path) -> dict[str, tuple[str, str]]:
    """Reason and message for each image path that cannot be used."""
    problems = {}
    for image in dict.fromkeys(caption.image for caption in captions):
        try:
            check_image_file(root / image)
        except DataError as error:
            missing = not (root / image).exists()
            problems[image] = (
                "captions without their image" if missing else "captions of unreadable images",
                str(error),
            )
    return problems
