"""Image files: read as RGB, checked, and identified by their content."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from halspan.core.errors import DataError
from halspan.core.files import open_regular

# Accepted image formats. Pillow knows more (EPS, WMF, PSD, ...), some of which start other programs.
# The most common ones come first, because the later ones make Pillow load all its plugins.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000")
_TAIL_BYTES = 64
_BACKGROUND = "white"  # as in most viewers, behind a transparent figure


def load_image(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB, upright.

    Palettes, gray, CMYK and 16-bit gray are converted. 16-bit values keep their high byte, as in Pillow's own
    conversion of color; `convert` alone may clip them to white. Transparency is laid over white, and EXIF orientation
    is applied. Of a multi-picture JPEG (a photo with previews) the photo is read.

    Raises:
        DataError: The file does not exist, or it is empty, truncated, not an image, larger than Pillow's limit of
            decompressed pixels, animated (it is not known which frame the caption describes), or of a mode without a
            defined range of brightness (32-bit integers, floats). The message names the file.
    """
    with _opened(path) as image:
        return _to_rgb(image)


def load_image_bytes(data: bytes, name: str = "in memory") -> Image.Image:
    """Read an image from the bytes of its file, as `load_image` does.

    Args:
        data: The bytes.
        name: Where they are from, for messages.

    Raises:
        DataError: As for `load_image`.
    """
    with _opened(io.BytesIO(data), name) as image:
        return _to_rgb(image)


def convert_image(image: Image.Image) -> Image.Image:
    """Convert an image in memory as `load_image` converts files; the image itself is not changed.

    Raises:
        DataError: As for `load_image`, for pictures that are animated, of a mode without a defined range, or damaged.
    """
    try:
        _check_still(image)
        return _to_rgb(image.copy())
    except (OSError, ValueError) as error:
        raise DataError(f"image in memory: cannot be decoded ({error}); load it again") from None


def check_image(path: Path) -> None:
    """Decode an image to the last pixel and discard it.

    Raises:
        DataError: As for `load_image`.
    """
    load_image(path)


def check_image_file(path: Path) -> None:
    """Check an image without decoding it: header, size, mode, animation, and the end of the file.

    This takes a fraction of a millisecond, so that a reader can check every image of a corpus. Only files without their
    format's end marker are decoded. Only `check_image` finds damage in the middle of a file.

    Raises:
        DataError: As for `load_image`.
    """
    with _opened(path) as image:
        if not _has_end(path, image.format):
            image.load()


def read_size(path: Path) -> tuple[int, int]:
    """Read an image's width and height, in pixels, from its header; EXIF orientation is not applied.

    Raises:
        DataError: As for `load_image`, for what the header shows.
    """
    with _opened(path) as image:
        return image.size


def describe_problem(path: Path, *, decode: bool) -> tuple[str, str] | None:
    """Describe what is wrong with an image.

    Args:
        path: File of the image.
        decode: Whether the image is decoded to the last pixel (`check_image`), or only its file is checked
            (`check_image_file`).

    Returns:
        Reason to leave out the image's captions, for counts, and the message; None if the image is usable.
    """
    try:
        (check_image if decode else check_image_file)(path)
    except DataError as error:
        is_there = os.path.isfile(path)  # noqa: PTH113 -- Path.is_file raises where a name is too long
        return "captions of unreadable images" if is_there else "captions without their image", str(error)
    return None


def content_hash(path: Path) -> str:
    """Return the SHA-256 of an image's bytes, in hexadecimal, which identifies it under any name.

    Bytes are hashed rather than pixels, which is a hundred times faster and does not depend on the decoder's version,
    so a split never changes. In return, an image that is saved again in another encoding counts as another image. The
    hash of each file is cached until its size or time stamp changes.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        status = path.stat()
        return _hash_file(path, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"image {path}: cannot be read ({reason}); restore the file") from None


@lru_cache(maxsize=1 << 17)
def _hash_file(path: Path, size: int, modified: int) -> str:  # noqa: ARG001 (both make the cache forget a changed file)
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(source: Path | io.BytesIO, name: str | None = None) -> Iterator[Image.Image]:
    """Open a still image of a usable mode; Pillow's errors inside the block become a DataError."""
    name = name or (str(source) if isinstance(source, Path) else "in memory")
    try:
        with ExitStack() as opened:
            file = opened.enter_context(open_regular(source)) if isinstance(source, Path) else source
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = opened.enter_context(Image.open(file, formats=FORMATS))
            _check_still(image)
            yield image
    except DataError as error:
        raise DataError(f"image {name}: {error}") from None
    except Exception as error:  # damaged bytes make Pillow's decoders raise almost any exception
        raise DataError(f"image {name}: {_explain(error, source)}") from None


def _explain(error: Exception, source: Path | io.BytesIO) -> str:
    if isinstance(error, FileNotFoundError):
        hint = " (write / instead of \\ in it)" if "\\" in str(source) and os.sep == "/" else ""
        return f"does not exist; put the file there or correct its path{hint}"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror}); check the path, the file and its permissions"
    if _is_empty(source):
        return "is empty (0 bytes); fetch the file again"
    if isinstance(error, UnidentifiedImageError):
        return f"is not an image that can be read; the formats are {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"is too large ({error}); scale it down below {Image.MAX_IMAGE_PIXELS} pixels"
    return f"cannot be decoded ({error}); the file is damaged or truncated: fetch it again"


def _is_empty(source: Path | io.BytesIO) -> bool:
    if isinstance(source, Path):
        return source.is_file() and source.stat().st_size == 0
    return not source.getbuffer().nbytes


def _check_still(image: Image.Image) -> None:
    if image.mode in ("I", "F"):
        raise DataError(
            f"pixels of mode {image.mode} (32 bits) have no defined range of brightness; save it with 8 or 16 bits"
        )
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise DataError(
            f"has several frames ({image.format}), and which of them the caption describes cannot be known; "
            "save the right one as a still image"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        high_bytes = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(high_bytes.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    pixels = image.convert("RGBA")
    canvas = Image.new("RGBA", pixels.size, _BACKGROUND)
    return Image.alpha_composite(canvas, pixels).convert("RGB")


def _has_end(path: Path, format_: str | None) -> bool:
    with open_regular(path) as file:
        head = file.read(8)
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    ends: dict[str | None, Any] = {
        "JPEG": b"\xff\xd9" in tail,
        "MPO": b"\xff\xd9" in tail,
        "PNG": b"IEND" in tail,
        "GIF": tail.rstrip(b"\0").endswith(b";"),
        "WEBP": int.from_bytes(head[4:8], "little") + 8 <= size,
    }
    return bool(ends.get(format_, False))
