"""Sentences about scenes: true statements, the same with one known error, and their wording in a style."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from halspan.data.shapes.scenes import (
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    GRID,
    LETTERS,
    PLAIN_SHAPES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)

NUMBERS = ("one", "two", "three", "four")
PLACES = tuple(f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))
RELATIONS = ("left of", "right of", "above", "below")
_WORN_TEXTURES = ("striped", "dotted")  # "plain" is never said


@dataclass(frozen=True, slots=True)
class Statement:
    """The content of a sentence: a kind, canonical values by slot, and the wrong slots with their types."""

    kind: str
    slots: Mapping[str, str]
    wrong: tuple[str, ...] = ()
    error_type: str | None = None

    def with_error(self, error_type: str, **changed: str) -> Statement:
        """Return the statement with `changed` slots, which are wrong by an error of `error_type`."""
        return Statement(self.kind, {**self.slots, **changed}, tuple(changed), error_type)


@dataclass(frozen=True, slots=True)
class Style:
    """The wording of one generator: sentence patterns by kind, and words for canonical values."""

    patterns: Mapping[str, tuple[str, ...]]
    words: Mapping[str, str] = field(default_factory=dict)

    def word(self, value: str) -> str:
        """Return this style's word for a canonical value."""
        return self.words.get(value, value)


# --- true statements ------------------------------------------------------------------------------------------------


def true_statements(scene: Scene, kind: str, rng: random.Random) -> Iterator[Statement]:
    """Yield the true statements of one kind about `scene`, in random order."""
    statements = list(_TRUE[kind](scene, rng))
    rng.shuffle(statements)
    yield from statements


def _thing_slots(thing: Thing, rng: random.Random) -> dict[str, str]:
    slots = {"color": thing.color, "shape": thing.shape}
    if thing.shape in PLAIN_SHAPES:
        if rng.random() < 0.5:
            slots["size"] = thing.size
        if thing.texture in _WORN_TEXTURES and rng.random() < 0.7:
            slots["texture"] = thing.texture
    return slots


def _true_place(scene: Scene, rng: random.Random) -> Iterator[Statement]:
    for cell, thing in scene.things():
        yield Statement("place", {**_thing_slots(thing, rng), "place": PLACES[cell]})


def _true_presence(scene: Scene, rng: random.Random) -> Iterator[Statement]:
    for _, thing in scene.things():
        if thing.shape in PLAIN_SHAPES:
            yield Statement("presence", _thing_slots(thing, rng))


def _true_number(scene: Scene, rng: random.Random) -> Iterator[Statement]:
    shape_of = {}  # one shape for each count: otherwise "one" would be true too often
    for shape, count in rng.sample(items := list(scene.shape_counts().items()), len(items)):
        shape_of[count] = shape
    for count, shape in shape_of.items():
        if count <= len(NUMBERS):
            yield Statement("number", {"number": NUMBERS[count - 1], "shape": shape})


def _true_relation(scene: Scene, rng: random.Random) -> Iterator[Statement]:
    unique = scene.unique_things()
    for cell, thing in unique:
        for other_cell, other in unique:
            relation = _relation(cell, other_cell)
            if relation is not None:
                names = {"color": thing.color, "shape": thing.shape}
                others = {"color2": other.color, "shape2": other.shape}
                yield Statement("relation", {**names, "relation": relation, **others})


def _relation(cell: int, other: int) -> str | None:
    """Return the relation of `cell` to `other` if they share a row or a column, else None."""
    (row, column), (other_row, other_column) = divmod(cell, GRID), divmod(other, GRID)
    if cell == other or (row != other_row and column != other_column):
        return None
    if row == other_row:
        return "left of" if column < other_column else "right of"
    return "above" if row < other_row else "below"


def _true_direction(scene: Scene, rng: random.Random) -> Iterator[Statement]:
    for _, thing in scene.unique_things():
        if thing.direction is not None:
            yield Statement("direction", {"color": thing.color, "direction": thing.direction})


def _true_text(scene: Scene, rng: random.Random) -> Iterator[Statement]:
    for _, thing in scene.unique_things():
        if thing.letter is not None:
            yield Statement("text", {"color": thing.color, "letter": thing.letter})


def _true_background(scene: Scene, rng: random.Random) -> Iterator[Statement]:
    yield Statement("background", {"background": scene.background})


_TRUE = {
    "place": _true_place,
    "presence": _true_presence,
    "number": _true_number,
    "relation": _true_relation,
    "direction": _true_direction,
    "text": _true_text,
    "background": _true_background,
}
KINDS = tuple(_TRUE)


# --- errors ---------------------------------------------------------------------------------------------------------


_Error = Callable[[Statement, Scene, random.Random], Statement]


def corrupt(statement: Statement, scene: Scene, error_type: str, rng: random.Random) -> Statement:
    """Return `statement` with one error of `error_type`, one of `ERROR_TYPES_BY_KIND[statement.kind]`.

    Every error is unambiguous. A wrong place is an empty cell, and the thing is in another one (Location). A wrong
    shape or attribute is given to a cell that holds another thing (Object, Attribute). An invented thing has a shape
    that does not occur in the scene (Illusion).
    """
    return _ERRORS[error_type](statement, scene, rng)


def _other(values: tuple[str, ...], value: str, rng: random.Random) -> str:
    return rng.choice([candidate for candidate in values if candidate != value])


def _attribute(statement: Statement, scene: Scene, rng: random.Random) -> Statement:
    slot = rng.choice([name for name in ("color", "size", "texture") if name in statement.slots])
    values = {"color": COLORS, "size": SIZES, "texture": _WORN_TEXTURES}[slot]
    return statement.with_error("Attribute", **{slot: _other(values, statement.slots[slot], rng)})


def _object(statement: Statement, scene: Scene, rng: random.Random) -> Statement:
    shape = statement.slots["shape"]
    worn = "size" in statement.slots or "texture" in statement.slots  # arrows and cards are never small or striped
    return statement.with_error("Object", shape=_sampled_shape(rng, without={shape}, plain=worn))


def _location(statement: Statement, scene: Scene, rng: random.Random) -> Statement:
    empty = [PLACES[cell] for cell, thing in enumerate(scene.cells) if thing is None]
    return statement.with_error("Location", place=rng.choice(empty))


def _illusion(statement: Statement, scene: Scene, rng: random.Random) -> Statement:
    present = set(scene.shape_counts())
    plain = statement.slots["shape"] in PLAIN_SHAPES
    changed = {"color": rng.choice(COLORS), "shape": _sampled_shape(rng, without=present, plain=plain)}
    for slot, values in (("size", SIZES), ("texture", _WORN_TEXTURES)):
        if slot in statement.slots:
            changed[slot] = rng.choice(values)
    wrong = statement.with_error("Illusion", **changed)
    if statement.kind == "place":
        empty = [PLACES[cell] for cell, thing in enumerate(scene.cells) if thing is None]
        return Statement(wrong.kind, {**wrong.slots, "place": rng.choice(empty)}, wrong.wrong, "Illusion")
    return wrong


def _sampled_shape(rng: random.Random, *, without: set[str], plain: bool) -> str:
    """Draw a wrong shape about as often as true sentences name it, so that words do not reveal errors."""
    candidates = [shape for shape in (PLAIN_SHAPES if plain else SHAPES) if shape not in without]
    weights = [1.0 if shape in PLAIN_SHAPES else _SPECIAL_WEIGHT for shape in candidates]
    return rng.choices(candidates, weights)[0]


_SPECIAL_WEIGHT = 2.5


def _number(statement: Statement, scene: Scene, rng: random.Random) -> Statement:
    candidates = [number for number in NUMBERS if number != statement.slots["number"]]
    weights = [_NUMBER_WEIGHTS[number] for number in candidates]
    return statement.with_error("Number", number=rng.choices(candidates, weights)[0])


_NUMBER_WEIGHTS = {"one": 2.0, "two": 0.72, "three": 0.24, "four": 0.06}


def _swapped(slot: str, values: tuple[str, ...], error_type: str) -> _Error:
    """Return the error that replaces one slot by any other value."""

    def swap(statement: Statement, scene: Scene, rng: random.Random) -> Statement:
        return statement.with_error(error_type, **{slot: _other(values, statement.slots[slot], rng)})

    return swap


_ERRORS: dict[str, _Error] = {
    "Attribute": _attribute,
    "Object": _object,
    "Location": _location,
    "Illusion": _illusion,
    "Number": _number,
    "Relation": _swapped("relation", RELATIONS, "Relation"),
    "Direction": _swapped("direction", DIRECTIONS, "Direction"),
    "Text": _swapped("letter", LETTERS, "Text"),
    "Other": _swapped("background", BACKGROUNDS, "Other"),
}
ERROR_TYPES_BY_KIND = {
    "place": ("Attribute", "Object", "Location", "Illusion"),
    "presence": ("Illusion",),
    "number": ("Number",),
    "relation": ("Relation",),
    "direction": ("Direction",),
    "text": ("Text",),
    "background": ("Other",),
}


# --- wording --------------------------------------------------------------------------------------------------------


def word(statement: Statement, style: Style, rng: random.Random) -> tuple[str, tuple[int, int] | None]:
    """Return a statement in words, with the range of its wrong words.

    Returns:
        The sentence, and the half-open range of its wrong words, from the first to the last; None if it is true.
    """
    text, wrong = "", list[tuple[int, int]]()
    for literal, field_name, _, _ in string.Formatter().parse(rng.choice(style.patterns[statement.kind])):
        text += literal
        for i, (slot, words) in enumerate(_slot_words(field_name, statement, style)):
            text += " " * (i > 0)
            if slot in statement.wrong:
                wrong.append((len(text), len(text) + len(words)))
            text += words
    text = text[0].upper() + text[1:]
    return text, (wrong[0][0], wrong[-1][1]) if wrong else None


def _slot_words(field_name: str | None, statement: Statement, style: Style) -> list[tuple[str, str]]:
    """Return (slot, words) pairs for one field of a pattern: a slot, a whole `thing`, `a_thing`, or plural `shapes`."""
    if field_name is None:
        return []
    if field_name == "shapes":
        return [("shape", _plural(style.word(statement.slots["shape"]), statement.slots["number"]))]
    if field_name not in ("thing", "a_thing"):
        return [(field_name, style.word(statement.slots[field_name]))]
    names = [name for name in ("size", "texture", "color", "shape") if name in statement.slots]
    words = [(name, style.word(statement.slots[name])) for name in names]
    article = "an" if words[0][1][0] in "aeiou" else "a"
    return [("article", article), *words] if field_name == "a_thing" else words


def _plural(noun: str, number: str) -> str:
    if number == "one":
        return noun
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"
