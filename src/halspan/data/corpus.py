"""A corpus: captions, the places of their images, and a count of records that could not be used."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from halspan.core.captions import Caption
from halspan.core.errors import DataError
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.images import content_hash, describe_problem

logger = logging.getLogger(__name__)

MOST_NAMED = 20  # largest number of problems in one error
OnProblem = Literal["raise", "skip"]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Captions of one source; all of their images exist, unless the reader was told not to check.

    Attributes:
        name: Short name, for tables.
        captions: Ids are unique.
        image_root: Folder that relative image paths start from.
        image_folders: Folders that all images are expected in; only `image_root` if empty.
        taxonomy: Hallucination types the annotations may use, in the order of a detector's type scores.
        skipped: Number of records that the reader left out, by reason.
        source: Origin of the corpus: reader, path, commit, ...
        lines: First line of each caption in the file, by id, where it is known.
        notes: Observations of the reader, ready for JSON: forms of cells, matches of error words; under `problems`,
            messages about what was left out, by reason; under `examples`, the first of each thing it counted.

    Raises:
        DataError: There is no caption, an id occurs twice, or a type is not in the taxonomy.
    """

    name: str
    captions: tuple[Caption, ...]
    image_root: Path
    image_folders: tuple[Path, ...] = ()
    taxonomy: tuple[str, ...] = HALLUCINATION_TYPES
    skipped: Mapping[str, int] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.captions:
            left_out = ", ".join(f"{reason} {count}" for reason, count in self.skipped.items()) or "nothing"
            examples = [
                problem for problems in self.notes.get("problems", {}).values() for problem in _once_each(problems)[:5]
            ]
            summary = (
                f"corpus {self.name}: no caption can be used (left out: {left_out}); repair the records or give "
                "another data.path"
            )
            raise DataError("\n".join([summary, *examples]))
        ids = Counter(caption.id for caption in self.captions)
        if repeated := [id_ for id_, count in ids.items() if count > 1]:
            raise DataError(f"corpus {self.name}: id {repeated[0]!r} occurs {ids[repeated[0]]} times; make ids unique")
        if unknown := types_of(self.captions) - set(self.taxonomy):
            raise DataError(
                f"corpus {self.name}: type {min(unknown)!r} is not in its taxonomy; one of {', '.join(self.taxonomy)}"
            )

    @property
    def generators(self) -> tuple[str, ...]:
        """Return every generator, in alphabetical order."""
        return tuple(sorted({caption.generator for caption in self.captions}))

    def image_path(self, caption: Caption) -> Path:
        """Return the path of the caption's image."""
        return self.image_root / caption.image

    def image_hash(self, caption: Caption) -> str:
        """Return the hash of the caption's image, see `content_hash`."""
        return content_hash(self.image_path(caption))

    def relocated(self, folder: Path | None) -> "Corpus":
        """Return the corpus with image paths relative to another folder, or absolute (None)."""
        root = self.image_root.resolve()

        def moved(image: str) -> str:
            path = root / image
            return str(path) if folder is None else Path(os.path.relpath(path, folder.resolve())).as_posix()

        captions = tuple(replace(caption, image=moved(caption.image)) for caption in self.captions)
        return replace(self, captions=captions, image_root=root if folder is None else folder)


class Skips:
    """Records that a reader cannot use: refused together, or counted by reason and listed.

    Args:
        on_error: "raise" or "skip".
        most: Number of problems that are collected before they are raised.
    """

    def __init__(self, on_error: OnProblem, *, most: int = 1) -> None:
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self.problems: dict[str, list[str]] = {}
        self._most = most
        self._refused: list[tuple[str, str]] = []

    def add(self, reason: str, problem: str) -> None:
        """Refuse a problem or count it.

        Args:
            reason: What is left out and why, in the plural: "malformed records".
            problem: Where, the value seen, why it cannot be and what to do.

        Raises:
            DataError: The problems so far, if problems are to be raised and there are enough of them.
        """
        if self.on_error == "raise":
            self.refuse(problem, f"data.on_error=skip or --on-error skip leaves out and counts {reason}")
        else:
            self.count(reason, problem)

    def refuse(self, problem: str, remedy: str) -> None:
        """Collect a problem that stops a reader, at once or after it has read everything.

        Raises:
            DataError: The problems so far, if there are enough of them.
        """
        self._refused.append((problem, remedy))
        if len(self._refused) >= self._most:
            self._raise()

    def count(self, reason: str, problem: str) -> None:
        """Count a problem that never stops a reader."""
        self.counts[reason] += 1
        self.problems.setdefault(reason, []).append(problem)

    def finish(self) -> None:
        """Raise the refused problems, or log what was left out, with one example of each.

        Raises:
            DataError: The problems that were refused.
        """
        if self._refused:
            self._raise()
        for reason, count in self.counts.items():
            logger.warning("left out: %s: %d, first: %s", reason, count, self.problems[reason][0])

    def _raise(self) -> None:
        problems, remedies = zip(*self._refused, strict=True)
        if len(problems) == 1:
            raise DataError(f"{problems[0]} ({remedies[0]})")
        count = f"the first {self._most}" if len(problems) == self._most else str(len(problems))
        summary = f"{count} problems of the captions (halspan data check lists all, and what is probably wrong besides)"
        notes = [f"({remedy})" for remedy in dict.fromkeys(remedies)]
        raise DataError("\n".join([summary, *_once_each(problems), *notes]))


def _once_each(problems: Sequence[str]) -> list[str]:
    """Merge problems that are the same on several lines of a file."""
    groups: dict[str, list[str]] = {}
    for problem in problems:
        groups.setdefault(re.sub(r"^.*?:\d+: ", "", problem), []).append(problem)
    return [
        found[0] if len(found) == 1 else f"{found[0]} (and {len(found) - 1} more like it)" for found in groups.values()
    ]


def find_corpus_file(path: Path, patterns: tuple[str, ...]) -> Path:
    """Return a corpus's file: the path itself, or the folder's only file of the first pattern that any file fits.

    Raises:
        DataError: The path does not exist, or the folder holds no such file or several.
    """
    path = path.expanduser()
    # os.path returns False where Path raises: a name that is too long, a zero byte
    if os.path.isfile(path):  # noqa: PTH113
        return path
    if os.path.lexists(path) and not os.path.isdir(path):  # noqa: PTH112
        raise DataError(f"data.path: {str(path)!r} is not a file; write its captions to a file, or give a folder")
    if not os.path.isdir(path):  # noqa: PTH112
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
    """Return the folder that image paths start from: `data.images`, else the default.

    Raises:
        DataError: `data.images` is not a folder.
    """
    if images is None:
        return default
    images = images.expanduser()
    if not os.path.isdir(images):  # noqa: PTH112 -- answers where the name is too long
        raise DataError(f"data.images: {str(images)!r} is not a folder; give the one that holds the images, or null")
    return images


def join_sentences(texts: Iterable[str]) -> tuple[str, list[tuple[int, int]]]:
    """Join stripped sentences by single spaces; return the text and their character ranges in it.

    >>> join_sentences(["A man. ", "He waves."])
    ('A man. He waves.', [(0, 6), (7, 16)])
    """
    stripped = [text.strip() for text in texts]
    ranges, start = [], 0
    for text in stripped:
        ranges.append((start, start + len(text)))
        start += len(text) + 1
    return " ".join(stripped), ranges


def keep_with_images(
    captions: Iterable[Caption],
    root: Path,
    *,
    missing_image: OnProblem,
    min_images: float,
    skips: Skips,
    check_images: bool,
) -> tuple[Caption, ...]:
    """Keep the captions whose image exists and, as far as its header and end tell, is readable.

    Args:
        captions: Captions with image paths relative to `root`, or absolute.
        root: Folder that relative image paths start from.
        missing_image: "raise", or "skip" to leave out and count captions without a usable image.
        min_images: Smallest share of usable images, 0 to 1.
        skips: Handler that counts the captions left out.
        check_images: Whether to look at the images; False keeps all captions.

    Raises:
        DataError: An image cannot be used and `missing_image` is "raise", or too few can be used.
    """
    captions = tuple(captions)
    problems = _image_problems(captions, root) if check_images else {}
    if not problems:
        return captions
    n_images = len({caption.image for caption in captions})
    share = 1 - len(problems) / n_images
    first, *others = (message for _, message in problems.values())
    summary = (
        f"{n_images - len(problems)} of {n_images} images can be used ({share:.1%}), the first that cannot: {first}"
    )
    if missing_image == "raise":
        remedy = (
            "data.images or --images names the images' folder, data.missing_image=skip or --missing-image skip leaves "
            "out captions without their image"
        )
        for problem in (summary, *others):
            skips.refuse(problem, remedy)
    elif share < min_images:
        problem = f"{summary}; fewer than data.min_images={min_images}"
        skips.refuse(problem, "set data.images to their folder, or lower data.min_images")
    else:
        logger.warning(summary)
        for caption in captions:
            if caption.image in problems:
                skips.count(*problems[caption.image])
    return tuple(caption for caption in captions if caption.image not in problems)


def keep_inside(
    captions: Iterable[Caption], root: Path, folders: Sequence[Path], *, images_inside: bool, skips: Skips
) -> Iterator[Caption]:
    """Keep the captions whose image path, followed through `..` and links, stays in one of the folders.

    Args:
        captions: Captions with image paths relative to `root`, or absolute.
        root: Folder that relative image paths start from.
        folders: Folders that may hold images.
        images_inside: Whether to check; False keeps all captions.
        skips: Handler that counts the captions left out.

    Raises:
        DataError: A path leads out, and problems are to be raised.
    """
    for caption in captions:
        if images_inside and not is_inside(root / caption.image, folders):
            problem = (
                f"caption {caption.id!r}: image: {caption.image!r} leads out of {' and '.join(map(str, folders))}, and "
                "data.images_inside=true keeps images in there; move the image, or set data.images to its folder"
            )
            skips.add("captions with an image outside the images' folder", problem)
        else:
            yield caption


def is_inside(path: Path, folders: Iterable[Path]) -> bool:
    """Return whether a path, followed through `..` and links, leads into one of the folders."""
    try:
        real = Path(os.path.realpath(path))  # unlike Path.resolve, it accepts circular links
    except ValueError:  # a zero byte in the name
        return False
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)


def types_of(captions: Iterable[Caption]) -> set[str]:
    """Return every hallucination type named by a sentence or a span."""
    types = {name for caption in captions for sentence in caption.sentences for name in sentence.types}
    return types | {span.type for caption in captions for span in caption.spans if span.type is not None}


def _image_problems(captions: tuple[Caption, ...], root: Path) -> dict[str, tuple[str, str]]:
    """Return reason and message for each image path that cannot be used."""
    images = dict.fromkeys(caption.image for caption in captions)
    found = {image: describe_problem(root / image, decode=False) for image in images}
    return {image: problem for image, problem in found.items() if problem is not None}
