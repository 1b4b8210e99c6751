"""Drawing of scenes: 96 x 96 pixels with cells of 32 x 32, and jitter in place, size and color."""

from __future__ import annotations

import functools
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from halspan.data.shapes.scenes import GRID, Scene, Thing

CELL_PIXELS = 32
IMAGE_PIXELS = GRID * CELL_PIXELS

_SCALE = 2  # drawn at twice the size, then averaged: smooth edges
_BOX = CELL_PIXELS * _SCALE
_RADIUS = {"small": 8.0, "large": 13.0}  # pixels of the final image
_RGB = {
    "red": (218, 36, 40),
    "green": (34, 150, 56),
    "blue": (44, 72, 220),
    "yellow": (244, 214, 36),
    "purple": (134, 52, 176),
    "orange": (246, 134, 22),
    "pink": (250, 140, 196),
    "cyan": (44, 200, 222),
    "white": (246, 246, 246),
    "black": (18, 18, 18),
    "grey": (124, 124, 124),
    "beige": (222, 202, 166),
}
_ARROW = ((0.0, -1.0), (0.8, 0.0), (0.3, 0.0), (0.3, 1.0), (-0.3, 1.0), (-0.3, 0.0), (-0.8, 0.0))  # points up
_QUARTER_TURNS = {"up": 0, "right": 1, "down": 2, "left": 3}


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw `scene`; `rng` determines the jitter only, never the content."""
    background = _jittered(scene.background, rng)
    image = Image.new("RGB", (IMAGE_PIXELS, IMAGE_PIXELS), background)
    for cell, thing in scene.things():
        row, column = divmod(cell, GRID)
        box = Image.new("RGB", (_BOX, _BOX), background)
        _draw(box, thing, rng)
        image.paste(box.reduce(_SCALE), (column * CELL_PIXELS, row * CELL_PIXELS))
    return image


def _draw(box: Image.Image, thing: Thing, rng: random.Random) -> None:
    radius = _RADIUS[thing.size] * _SCALE * rng.uniform(0.92, 1.06)
    center = (_BOX / 2 + rng.uniform(-2, 2) * _SCALE, _BOX / 2 + rng.uniform(-2, 2) * _SCALE)
    mask = Image.new("L", box.size, 0)
    _outline(ImageDraw.Draw(mask), thing, center, radius)
    paint = Image.new("RGB", box.size, _jittered(thing.color, rng))
    if thing.texture != "plain":
        paint.paste(_shade(thing.color), mask=_texture(thing.texture))
    box.paste(paint, mask=mask)
    if thing.letter is not None:
        ink = (16, 16, 16) if sum(_RGB[thing.color]) > 300 else (250, 250, 250)
        ImageDraw.Draw(box).text(center, thing.letter, fill=ink, font=_font(), anchor="mm")


def _outline(draw: ImageDraw.ImageDraw, thing: Thing, center: tuple[float, float], radius: float) -> None:
    x, y = center
    bounds = (x - radius, y - radius, x + radius, y + radius)
    match thing.shape:
        case "circle":
            draw.ellipse(bounds, fill=255)
        case "ring":
            draw.ellipse(bounds, fill=255)
            hole = radius * 0.5
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        case "card":
            draw.rounded_rectangle((x - radius, y - radius, x + radius, y + radius), radius * 0.25, fill=255)
        case _:
            draw.polygon([(x + radius * px, y + radius * py) for px, py in _polygon(thing)], fill=255)


def _polygon(thing: Thing) -> list[tuple[float, float]]:
    """Return the corners of a shape of radius one around the origin (y points down)."""
    if thing.shape == "arrow":
        return [_turned(point, _QUARTER_TURNS[thing.direction or "up"]) for point in _ARROW]
    return _POLYGONS[thing.shape]


def _turned(point: tuple[float, float], quarters: int) -> tuple[float, float]:
    x, y = point
    for _ in range(quarters):
        x, y = -y, x
    return x, y


def _star() -> list[tuple[float, float]]:
    corners = [(math.pi * i / 5 - math.pi / 2, 1.0 if i % 2 == 0 else 0.42) for i in range(10)]
    return [(r * math.cos(angle), r * math.sin(angle)) for angle, r in corners]


def _heart() -> list[tuple[float, float]]:
    """Return the heart curve (16 sin^3 t; 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t), scaled to radius one."""
    turns = [2 * math.pi * i / 24 for i in range(24)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turns
    ]


def _cross(arm: float = 0.34) -> list[tuple[float, float]]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    return [_turned(point, turn) for turn in range(4) for point in quarter]


_POLYGONS = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -0.95), (0.95, 0.8), (-0.95, 0.8)],
    "diamond": [(0.0, -1.0), (0.7, 0.0), (0.0, 1.0), (-0.7, 0.0)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}


@functools.cache
def _texture(name: str) -> Image.Image:
    """Return the mask of a texture over one cell: stripes run across, dots form a grid."""
    y, x = np.mgrid[0:_BOX, 0:_BOX] / _SCALE
    marks = (y % 5 < 2) if name == "striped" else ((x % 5 - 2.5) ** 2 + (y % 5 - 2.5) ** 2 < 2.2)
    return Image.fromarray(np.where(marks, 255, 0).astype(np.uint8))


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=19 * _SCALE)


def _jittered(color: str, rng: random.Random, amount: int = 10) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, value + rng.randint(-amount, amount))) for value in _RGB[color])
    return red, green, blue


def _shade(color: str) -> tuple[int, int, int]:
    """Return the dark tone of a color, used for its stripes and dots."""
    red, green, blue = (int(value * 0.35) for value in _RGB[color])
    return red, green, blue
