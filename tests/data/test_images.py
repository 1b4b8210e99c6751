"""Tests of reading, checking and identifying image files."""

import hashlib
import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halspan.core.errors import DataError
from halspan.data.images import check_image, check_image_file, content_hash, load_image

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def bytes_of(image: Image.Image, format_: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK"])
def test_a_white_image_of_any_mode_is_white_in_rgb(tmp_path, mode):
    image = load_image(saved(Image.new("L", (3, 3), 255).convert(mode), tmp_path / "a.tif"))
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == (255, 255, 255)


def test_a_cmyk_photo_keeps_its_color(tmp_path):
    magenta_and_yellow = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert load_image(saved(magenta_and_yellow, tmp_path / "a.jpg")).getpixel((8, 8)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_by_their_high_byte_and_not_clipped_to_white(tmp_path, suffix):
    values = np.array([[0x0000, 0x12FF], [0x8000, 0xFFFF]], dtype=np.uint16)
    image = load_image(saved(Image.fromarray(values), tmp_path / f"a{suffix}"))
    assert np.asarray(image)[..., 0].tolist() == [[0x00, 0x12], [0x80, 0xFF]]


def test_transparency_is_laid_over_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))  # half red, half the white behind it
    loaded = load_image(saved(image, tmp_path / "a.png"))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (255, 127, 127)]


def test_a_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (2, 2), 3)
    image.putpalette([0, 0, 0] * 4)
    assert load_image(saved(image, tmp_path / "a.png", transparency=3)).getpixel((0, 0)) == (255, 255, 255)


def test_a_photo_taken_sideways_is_turned_upright(tmp_path):
    image = Image.new("RGB", (8, 2))
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees to display
    assert load_image(saved(image, tmp_path / "a.jpg", exif=exif)).size == (2, 8)


def test_of_a_photo_with_a_second_picture_the_first_is_read(tmp_path):
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    path = saved(red, tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[blue])
    check_image_file(path)
    red_value, _, blue_value = load_image(path).getpixel((4, 4))
    assert red_value > 200
    assert blue_value < 50


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_an_animated_image_is_refused(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    path = saved(frames[0], tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"a\{suffix}: has several frames .* save the right one as a still image"):
        load_image(path)


@pytest.mark.parametrize("size", [10_000, 100_000], ids=["Pillow warns", "Pillow refuses"])
@pytest.mark.parametrize("check", [load_image, check_image_file])
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, recwarn, check, size):
    path = tmp_path / "a.png"
    path.write_bytes(png_header(size, size))
    with pytest.raises(DataError, match=r"a\.png: is too large .* scale it down below 89478485 pixels"):
        check(path)
    assert not recwarn.list


def test_a_mode_without_a_range_of_brightness_is_refused(tmp_path):
    path = saved(Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)), tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"mode F .* save it with 8 or 16 bits"):
        load_image(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist; put the file there"),
        (b"", "is empty .0 bytes.; fetch the file again"),
        (b"<html>404</html>", "is not an image that can be read; the formats are JPEG, PNG"),
        (bytes_of(Image.fromarray(NOISE), "JPEG")[:-200], "the file is damaged or truncated"),
        (bytes_of(Image.fromarray(NOISE), "PNG")[:-200], "the file is damaged or truncated"),
        (bytes_of(Image.fromarray(NOISE), "GIF")[:-200], "the file is damaged or truncated"),
        (bytes_of(Image.fromarray(NOISE), "WEBP")[:-200], "damaged or truncated|is not an image"),
        (bytes_of(Image.fromarray(NOISE), "BMP")[:-200], "the file is damaged or truncated"),
    ],
    ids=["missing", "zero bytes", "a web page", "JPEG cut", "PNG cut", "GIF cut", "WebP cut", "BMP cut"],
)
@pytest.mark.parametrize("check", [load_image, check_image, check_image_file])
def test_a_file_that_cannot_be_used_is_named_with_the_remedy(tmp_path, check, content, problem):
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^image .*photo\.jpg: .*({problem})"):
        check(path)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read .Is a directory"):
        load_image(tmp_path)


@pytest.mark.parametrize("name", ["pipe", "loop", "/dev/zero", "x" * 300, "a\0b"])
@pytest.mark.parametrize("read", [load_image, check_image_file, content_hash])
@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_what_is_not_a_file_is_an_error_and_never_waited_for(tmp_path, name, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / name)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_the_quick_check_accepts_whole_files_of_each_format(tmp_path, format_):
    path = tmp_path / "a"
    path.write_bytes(bytes_of(Image.fromarray(NOISE), format_))
    check_image_file(path)
    check_image(path)


def test_the_quick_check_decodes_a_file_with_something_behind_its_end_before_it_judges(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes_of(Image.fromarray(NOISE), "JPEG") + bytes(1000))
    check_image_file(path)


def test_damage_in_the_middle_is_left_to_the_full_check(tmp_path):
    path = tmp_path / "a.png"
    content = bytearray(bytes_of(Image.fromarray(NOISE), "PNG"))
    content[100:110] = bytes(10)
    path.write_bytes(content)
    check_image_file(path)
    with pytest.raises(DataError, match="damaged or truncated"):
        check_image(path)


def test_the_content_of_an_image_is_the_sha256_of_its_bytes_whatever_its_name(tmp_path):
    first, second = tmp_path / "first.png", tmp_path / "second.txt.png"
    for path in (first, second):
        path.write_bytes(b"the same")
    assert content_hash(first) == content_hash(second) == hashlib.sha256(b"the same").hexdigest()


def test_a_file_that_changed_is_hashed_again(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    before = content_hash(path)
    path.write_bytes(b"three")
    assert content_hash(path) != before


def test_the_content_of_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        content_hash(tmp_path / "a.png")
