"""Llama-4's image processor in PIL and numpy, because transformers has it for torchvision only.

This is a port of `transformers.models.llama4.image_processing_llama4`. An image is scaled onto the canvas of whole
tiles that fits it best, and cut into tiles. If there is more than one tile, a small copy of the whole image follows.
Pixels stay in float32, where the original rounds them to bfloat16, and resizing rounds differently from torchvision.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from typing_extensions import override

from halspan.models.private.transformers import PilImageProcessor

Size = tuple[int, int]  # height, width; pixels


class Llama4ImagesKwargs(ImagesKwargs, total=False):  # type: ignore[misc, call-arg]
    """Options that a call or a configuration may set besides those of all image processors.

    Attributes:
        max_patches: Largest number of tiles of an image.
        resize_to_max_canvas: Whether to enlarge an image as far as the tiles allow, instead of as little as possible.
    """

    max_patches: int
    resize_to_max_canvas: bool


class Llama4ImageProcessorPil(PilImageProcessor):
    """Image processor that cuts images into tiles; saved as transformers' `Llama4ImageProcessor`."""

    resample = PILImageResampling.BILINEAR
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    size = {"height": 336, "width": 336}  # noqa: RUF012 -- a default that transformers copies
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    max_patches = 16
    resize_to_max_canvas = False
    valid_kwargs = Llama4ImagesKwargs

    @override
    def make_inputs(  # type: ignore[override]  # the settings of this processor, by name
        self,
        images: list[UInt8[ndarray, "channel _ _"]],
        *,
        size: SizeDict,
        resample: PILImageResampling | int,
        rescale_factor: float,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        max_patches: int,
        resize_to_max_canvas: bool,
        return_tensors: str | None,
        **_: Any,
    ) -> BatchFeature:
        tiles, ratios = [], []
        for image in images:
            canvas = best_canvas(image.shape[1:], canvases(max_patches, size.height), enlarge=resize_to_max_canvas)
            fitted = fit(image.shape[1:], canvas, tile=size.height, enlarge=resize_to_max_canvas)
            scaled = self.resize(image, SizeDict(height=fitted[0], width=fitted[1]), resample)
            tiles.append(cut(pad(scaled, canvas), size.height))
            if len(tiles[-1]) > 1:
                tiles.append(self.resize(image, size, resample)[None])
            ratios.append((canvas[0] // size.height, canvas[1] // size.width))
        pixels = self.scale(np.concatenate(tiles), rescale_factor, image_mean, image_std)
        return BatchFeature({"pixel_values": pixels, "aspect_ratios": np.array(ratios)}, tensor_type=return_tensors)

    def scale(
        self,
        image: UInt8[ndarray, "tile channel height width"],
        factor: float,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> Float[ndarray, "tile channel height width"]:
        """Rescale and normalize pixels by a table of all 256 values, which is six times as fast as doing it for each.

        The numbers are the same to the last bit.
        """
        values = np.broadcast_to(np.arange(256, dtype=np.uint8), (1, image.shape[1], 1, 256))
        table = self.normalize(self.rescale(values, factor), mean, std)[0, :, 0]
        scaled = np.empty(image.shape, dtype=table.dtype)
        for channel, of_values in enumerate(table):
            np.take(of_values, image[:, channel], out=scaled[:, channel], mode="clip")  # which needs no buffer
        return scaled

    def normalize(
        self, image: Float[ndarray, "tile channel height width"], mean: Sequence[float], std: Sequence[float], **_: Any
    ) -> Float[ndarray, "tile channel height width"]:
        """Subtract each channel's mean and divide by its standard deviation."""
        scale = np.array([mean, std], dtype=np.float32)[:, None, :, None, None]
        result: ndarray = (image.astype(np.float32) - scale[0]) / scale[1]
        return result


def canvases(max_tiles: int, tile: int) -> Int[ndarray, "canvas 2"]:
    """List the sizes of all canvases of at most `max_tiles` tiles of `tile` x `tile` pixels, heights first."""
    shapes = [(rows, n // rows) for n in range(max_tiles, 0, -1) for rows in range(1, n + 1) if n % rows == 0]
    return np.array(shapes) * tile


def best_canvas(image: Size, options: Int[ndarray, "canvas 2"], *, enlarge: bool) -> Size:
    """Choose the canvas that changes the image's size least: none smaller if possible, then the smallest area.

    Args:
        image: Size of the image.
        options: Sizes of the canvases.
        enlarge: Whether to choose the canvas that enlarges the image most.
    """
    sides = options.astype(np.float32) / np.array(image, dtype=np.float32)  # float32 as in the original, for equal ties
    scales = sides.min(axis=1)
    larger = scales[scales >= 1]
    chosen = scales.max() if enlarge or len(larger) == 0 else larger.min()
    equals = options[scales == chosen]
    height, width = equals[equals.prod(axis=1).argmin()]
    return int(height), int(width)


def fit(image: Size, canvas: Size, *, tile: int, enlarge: bool) -> Size:
    """Scale the image's size to the canvas without distortion; beyond a tile it only grows with `enlarge`."""
    limits = canvas if enlarge else tuple(min(max(i, tile), c) for i, c in zip(image, canvas, strict=True))
    scale_height, scale_width = (limit / side for limit, side in zip(limits, image, strict=True))
    if scale_width < scale_height:
        return max(1, min(int(image[0] * scale_width), limits[0])), limits[1]
    return limits[0], max(1, min(int(image[1] * scale_height), limits[1]))


def pad(image: UInt8[ndarray, "channel height width"], canvas: Size) -> UInt8[ndarray, "channel height_ width_"]:
    """Put the image into the top left corner of a black canvas."""
    padded = np.zeros((image.shape[0], *canvas), dtype=image.dtype)
    padded[:, : image.shape[1], : image.shape[2]] = image
    return padded


def cut(canvas: UInt8[ndarray, "channel height width"], tile: int) -> UInt8[ndarray, "tile channel side side"]:
    """Cut a canvas into its tiles, row by row."""
    n_channels, height, width = canvas.shape
    grid = canvas.reshape(n_channels, height // tile, tile, width // tile, tile)
    return grid.transpose(1, 3, 0, 2, 4).reshape(-1, n_channels, tile, tile)
