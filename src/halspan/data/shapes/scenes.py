"""Scenes of the shapes world: a three by three grid of colored things on a plain background."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "cyan")
PLAIN_SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
SHAPES = (*PLAIN_SHAPES, "arrow", "card")
SIZES = ("small", "large")
TEXTURES = ("striped", "dotted", "plain")
DIRECTIONS = ("up", "down", "left", "right")
LETTERS = ("A", "E", "H", "K", "L", "O", "T", "X")
BACKGROUNDS = ("white", "black", "grey", "beige")
GRID = 3
"""Cells per side; cell `i` is in row `i // GRID`, column `i % GRID`, from the top left."""

_SPECIAL_SHARE = 0.75
_MAX_THINGS = 7


@dataclass(frozen=True, slots=True)
class Thing:
    """The thing in one cell: arrows have a direction, cards a letter, all other shapes a size and a texture."""

    shape: str
    color: str
    size: str = "large"
    texture: str = "plain"
    direction: str | None = None
    letter: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and, for each of the nine cells, a thing or nothing."""

    background: str
    cells: tuple[Thing | None, ...]

    def things(self) -> list[tuple[int, Thing]]:
        """Return the occupied cells with their things."""
        return [(cell, thing) for cell, thing in enumerate(self.cells) if thing is not None]

    def shape_counts(self) -> Counter[str]:
        """Count the things of each shape."""
        return Counter(thing.shape for _, thing in self.things())

    def unique_things(self) -> list[tuple[int, Thing]]:
        """Return the things that no other thing matches in color and shape."""
        looks = Counter((thing.color, thing.shape) for _, thing in self.things())
        return [(cell, thing) for cell, thing in self.things() if looks[thing.color, thing.shape] == 1]


def sample_scene(rng: random.Random) -> Scene:
    """Draw a scene of four to seven things; shapes and colors repeat, so that counting is not trivial."""
    kinds = rng.sample(PLAIN_SHAPES, rng.randint(2, 3))
    kinds += [kind for kind in ("arrow", "card") if rng.random() < _SPECIAL_SHARE]
    colors = rng.sample(COLORS, rng.randint(3, 5))
    n_things = rng.randint(max(4, len(kinds)), _MAX_THINGS)
    shapes = kinds + rng.choices(kinds, k=n_things - len(kinds))
    cells: list[Thing | None] = [None] * GRID**2
    for cell, shape in zip(rng.sample(range(GRID**2), n_things), shapes, strict=True):
        cells[cell] = _sample_thing(rng, shape, rng.choice(colors))
    return Scene(rng.choice(BACKGROUNDS), tuple(cells))


def _sample_thing(rng: random.Random, shape: str, color: str) -> Thing:
    if shape == "arrow":
        return Thing(shape, color, direction=rng.choice(DIRECTIONS))
    if shape == "card":
        return Thing(shape, color, letter=rng.choice(LETTERS))
    return Thing(shape, color, size=rng.choice(SIZES), texture=rng.choice(TEXTURES))
