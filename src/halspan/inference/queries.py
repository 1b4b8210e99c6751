"""Queries to `Detector.predict`: images and texts in all accepted forms."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from halspan.core.captions import Caption, Sentence
from halspan.core.checks import check_text, kind, show
from halspan.core.errors import DataError
from halspan.core.text.sentences import split_sentences
from halspan.data.images import convert_image, load_image, load_image_bytes
from halspan.inference.results import Prediction, Unscored

ImageLike = str | PathLike[str] | Image.Image | UInt8[ndarray, "..."] | bytes | bytearray | memoryview
Ranges = Sequence[tuple[int, int]]
Item = tuple[ImageLike, str] | tuple[ImageLike, str, Ranges | None]

NO_SENTENCE = "there is no sentence in it"


@dataclass(frozen=True, slots=True)
class Task:
    """A text to score.

    Attributes:
        image: Path or bytes of an image file, or the RGB image itself.
        text: The text.
        caption: The text with its sentences; None where it has no sentences.
        name: Name in errors, such as "item 3: "; empty where there is only one item.
    """

    image: Path | bytes | Image.Image
    text: str
    caption: Caption | None
    name: str = ""

    @classmethod
    def of(cls, image: ImageLike, text: str, sentences: Ranges | None, *, name: str = "") -> "Task":
        """Build a task; sentences are found unless they are given.

        An image in memory is copied; afterwards the caller may change it. A file is read when the text is scored.

        Raises:
            DataError: The image in memory, or that of a text without sentences, is not possible; the text is not a
                string, or a sentence does not fit it.
        """
        task = cls(_keep_image(image), text, _caption(text, sentences, name), name)
        if task.caption is None:  # it is not scored
            task.load_image()
        return task

    @property
    def n_bytes(self) -> int:
        """Return the memory that its image takes, in bytes."""
        if isinstance(self.image, Image.Image):
            return self.image.width * self.image.height * len(self.image.getbands())
        return len(self.image) if isinstance(self.image, bytes) else 0

    @property
    def key(self) -> Hashable:
        """Return a key that is equal for equal paths, and for equal bytes of image files."""
        return id(self.image) if isinstance(self.image, Image.Image) else self.image

    def load_image(self) -> Image.Image:
        """Read the image.

        Raises:
            DataError: It cannot be read.
        """
        return self.image if isinstance(self.image, Image.Image) else read_image(self.image)

    def unscored(self) -> Prediction:
        """Return the answer for a text without sentences."""
        return Prediction(self.text, (), (), (Unscored(0, len(self.text), self.text, NO_SENTENCE),))


def read_tasks(items: Iterable[Item]) -> Iterator[Task | DataError]:
    """Yield a task for each item; or, in the place of an item that cannot be used, an error that names it.

    It is neither a pair nor a triple, its image in memory is not possible, its text is not a string, or a sentence does
    not fit it. Files of images are not looked at.
    """
    for number, item in enumerate(items):
        name = f"item {number}: "
        try:
            yield Task.of(*_parts(item), name=name)
        except DataError as error:
            yield DataError(f"{name}{error}")


def read_image(image: ImageLike) -> Image.Image:
    """Read an image as 8-bit RGB, upright.

    Args:
        image: Path, PIL image, array of 8-bit pixels (height, width[, 1, 3 or 4]), or the bytes of an image file.

    Raises:
        DataError: The image cannot be read, or is something else.
    """
    if isinstance(image, str | PathLike):
        return load_image(Path(image))
    if isinstance(image, Image.Image):
        return convert_image(image)
    if isinstance(image, ndarray):
        return _from_array(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return load_image_bytes(bytes(image))
    raise DataError(
        f"image: {show(image)} is {kind(image)}; give a path, a PIL image, an array of 8-bit pixels, or the bytes of a "
        "file"
    )


def _keep_image(image: ImageLike) -> Path | bytes | Image.Image:
    """Return what the image can be read from later; an image in memory is copied."""
    if isinstance(image, str | PathLike):
        return Path(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    return read_image(image)


def _from_array(pixels: ndarray) -> Image.Image:
    is_flat = pixels.ndim == 3 and pixels.shape[2] == 1
    shape = pixels.shape[:2] if is_flat else pixels.shape
    if pixels.dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,), (4,)) or 0 in shape:
        raise DataError(
            f"image: an array of {pixels.dtype} and shape {pixels.shape} is not an image; give 8-bit pixels (uint8) of "
            "shape (height, width), or (height, width, 3 or 4)"
        )
    return convert_image(Image.fromarray(np.ascontiguousarray(pixels.reshape(shape))))


def _parts(item: Item) -> tuple[ImageLike, str, Ranges | None]:
    if isinstance(item, tuple | list) and len(item) in (2, 3):
        return (item[0], item[1], item[2] if len(item) == 3 else None)
    raise DataError(f"{show(item)} is neither (image, text) nor (image, text, sentences)")


def _caption(text: str, sentences: Ranges | None, name: str) -> Caption | None:
    if not isinstance(text, str):
        raise DataError(f"text: {show(text)} is {kind(text)}, not text; write it as a string")
    if text.strip():
        check_text("text", text)  # first, because the segmenter fails on lone surrogates
    if sentences is None:
        sentences = split_sentences(text)
        if not sentences:
            return None
    try:
        pairs = [(start, end) for start, end in sentences]
    except (TypeError, ValueError):
        raise DataError(
            f"sentences: {show(sentences)} are not ranges; give a list of (start, end), characters of the text"
        ) from None
    ranges = tuple(Sentence(*pair) for pair in pairs)
    return Caption(name.removesuffix(": ") or "text", "in memory", "unknown", "image_to_text", text, ranges)
