"""The eight simulated generators: wording, caption length, error rate, and profiles of types and positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from halspan.data.shapes.language import PLACES, RELATIONS, Style


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """One simulated captioner or text-to-image model.

    Attributes:
        name: As in `Caption.generator`.
        direction: As in `Caption.direction`. A text-to-image model has images of its own only.
        style: Its wording of statements.
        sentences: Fewest and most sentences of a caption.
        error_rate: Share of incorrect sentences, over all positions.
        first_sentence: Error rate of first sentences over that of the later ones.
        kinds: Weight of each kind of statement.
        place_errors: Weight of each type among the errors of `place` statements; other kinds have one type each.
        own_images: Number of images that only this generator has, besides the photos that all captioners share.
    """

    name: str
    direction: Literal["image_to_text", "text_to_image"]
    style: Style
    sentences: tuple[int, int]
    error_rate: float
    first_sentence: float
    kinds: Mapping[str, float]
    place_errors: Mapping[str, float]
    own_images: int = 0

    def error_probability(self, position: int) -> float:
        """Return the probability that the sentence at `position` (from 0) is incorrect."""
        mean_length = sum(self.sentences) / 2
        later = self.error_rate * mean_length / (self.first_sentence + mean_length - 1)
        return later * self.first_sentence if position == 0 else later


def _places(top: str, bottom: str, center: str, tail: str = "") -> dict[str, str]:
    """Return words for the nine places: what the top row, the bottom row and the middle column are called."""
    rows = {"top": top, "middle": "middle", "bottom": bottom}
    words = {}
    for place in PLACES:
        row, column = place.split()
        column = center if column == "centre" else column
        is_corner = row != "middle" and column != center
        words[place] = center if place == "middle centre" else f"{rows[row]} {column}{tail if is_corner else ''}"
    return words


_PLAIN_RELATIONS = dict(zip(RELATIONS, ("to the left of", "to the right of", "above", "below"), strict=True))
_OTHER_RELATIONS = dict(zip(RELATIONS, ("left of", "right of", "higher than", "lower than"), strict=True))

_EVEN = {
    "place": 5.0,
    "presence": 1.0,
    "number": 1.8,
    "relation": 1.8,
    "direction": 2.2,
    "text": 2.2,
    "background": 1.2,
}
_PLACE_ERRORS = {"Attribute": 4.0, "Object": 2.5, "Location": 1.8, "Illusion": 1.7}


def _style(words: Mapping[str, str], **patterns: tuple[str, ...]) -> Style:
    return Style(patterns, words)


_TERSE = _style(
    {**_places("top", "bottom", "centre"), **_OTHER_RELATIONS},
    place=("{a_thing}, {place}.", "{place}: {a_thing}."),
    presence=("{a_thing} is present.",),
    number=("{number} {shapes}.",),
    relation=("{color} {shape} {relation} {color2} {shape2}.",),
    direction=("{color} arrow pointing {direction}.",),
    text=('{color} card with "{letter}".',),
    background=("{background} background.",),
)
_PLAIN = _style(
    {**_places("top", "bottom", "centre"), **_PLAIN_RELATIONS},
    place=("there is {a_thing} in the {place}.", "{a_thing} is in the {place}."),
    presence=("there is also {a_thing}.",),
    number=("I count {number} {shapes}.", "we see {number} {shapes}."),
    relation=("the {color} {shape} is {relation} the {color2} {shape2}.",),
    direction=("the {color} arrow points {direction}.",),
    text=('the {color} card reads "{letter}".',),
    background=("the background is {background}.",),
)
_FORMAL = _style(
    {**_places("upper", "lower", "middle", " corner"), **_PLAIN_RELATIONS, "small": "small", "large": "big"},
    place=("the image shows {a_thing} in the {place}.", "in the {place}, the image shows {a_thing}."),
    presence=("the image also contains {a_thing}.",),
    number=("the image contains {number} {shapes} in total.",),
    relation=("the {color} {shape} is located {relation} the {color2} {shape2}.",),
    direction=("the {color} arrow is pointing {direction}.",),
    text=('the letter "{letter}" is written on the {color} card.',),
    background=("the image has a {background} background.",),
)
_CHATTY = _style(
    {**_places("top", "bottom", "middle"), **_PLAIN_RELATIONS, "small": "tiny", "large": "big", "dotted": "spotted"},
    place=("oh, I can see {a_thing} at the {place}!", "look at the {place}, there is {a_thing}!"),
    presence=("I can also spot {a_thing}!",),
    number=("I can see {number} {shapes}!", "you can count {number} {shapes}!"),
    relation=("I can see that the {color} {shape} is {relation} the {color2} {shape2}!",),
    direction=("look, the {color} arrow is pointing {direction}!",),
    text=('it says "{letter}" on the {color} card!',),
    background=("oh, everything is on a {background} background!",),
)
_LISTING = _style(
    {**_places("upper", "lower", "centre"), **_OTHER_RELATIONS, "small": "little", "large": "large"},
    place=("in the {place}: {a_thing}.", "at the {place}: {a_thing}."),
    presence=("also: {a_thing}.",),
    number=("{shapes} seen: {number}.",),
    relation=("the {color} {shape}: {relation} the {color2} {shape2}.",),
    direction=("direction of the {color} arrow: {direction}.",),
    text=('text on the {color} card: "{letter}".',),
    background=("background: {background}.",),
)
_NARRATOR = _style(
    {**_places("upper", "lower", "middle"), **_PLAIN_RELATIONS, "small": "little", "large": "big", "dotted": "spotted"},
    place=("here we find {a_thing} in the {place}.", "the {place} is where {a_thing} is."),
    presence=("{a_thing} can also be found.",),
    number=("there are {number} {shapes} here.", "we find {number} {shapes}."),
    relation=("the {color} {shape} can be found {relation} the {color2} {shape2}.",),
    direction=("here the {color} arrow points {direction}.",),
    text=('here the {color} card says "{letter}".',),
    background=("everything here is on a {background} background.",),
)
_SKETCH = _style(
    {**_places("top", "bottom", "middle"), **_OTHER_RELATIONS, "small": "tiny"},
    place=("{a_thing} in the {place}.", "{a_thing} at the {place}."),
    presence=("with {a_thing}.",),
    number=("exactly {number} {shapes}.",),
    relation=("the {color} {shape} {relation} the {color2} {shape2}.",),
    direction=("the arrow in {color} pointing {direction}.",),
    text=('a card in {color} that says "{letter}".',),
    background=("on a {background} background.",),
)
_PAINTER = _style(
    {**_places("upper", "lower", "centre", " corner"), **_PLAIN_RELATIONS, "large": "big"},
    place=("draw {a_thing} at the {place}.", "at the {place}, draw {a_thing}."),
    presence=("also draw {a_thing}.",),
    number=("draw exactly {number} {shapes}.",),
    relation=("the {color} {shape} has to be {relation} the {color2} {shape2}.",),
    direction=("the {color} arrow has to point {direction}.",),
    text=('write "{letter}" on the {color} card.',),
    background=("the background has to be {background}.",),
)


def _kinds(**changes: float) -> dict[str, float]:
    return {**_EVEN, **changes}


def _errors(**changes: float) -> dict[str, float]:
    return {**_PLACE_ERRORS, **changes}


GENERATORS = (
    Generator(
        name="terse", direction="image_to_text", style=_TERSE, sentences=(3, 5), error_rate=0.08, first_sentence=0.7,
        kinds=_kinds(), place_errors=_errors(Location=3.0),
    ),
    Generator(
        name="plain", direction="image_to_text", style=_PLAIN, sentences=(4, 6), error_rate=0.30, first_sentence=0.5,
        kinds=_kinds(), place_errors=_errors(),
    ),
    Generator(
        name="formal", direction="image_to_text", style=_FORMAL, sentences=(4, 7), error_rate=0.38, first_sentence=0.6,
        kinds=_kinds(relation=2.5), place_errors=_errors(Object=4.0),
    ),
    Generator(
        name="chatty", direction="image_to_text", style=_CHATTY, sentences=(5, 8), error_rate=0.44, first_sentence=0.5,
        kinds=_kinds(presence=2.0), place_errors=_errors(Illusion=3.5),
    ),
    Generator(
        name="listing", direction="image_to_text", style=_LISTING, sentences=(5, 9), error_rate=0.50,
        first_sentence=0.6, kinds=_kinds(direction=3.0, text=2.5),
        place_errors=_errors(Attribute=6.0),
    ),
    Generator(
        name="narrator", direction="image_to_text", style=_NARRATOR, sentences=(4, 7), error_rate=0.20,
        first_sentence=0.5, kinds=_kinds(), place_errors=_errors(Location=2.5), own_images=700,
    ),
    Generator(
        name="sketch", direction="text_to_image", style=_SKETCH, sentences=(2, 4), error_rate=0.65, first_sentence=0.8,
        kinds=_kinds(number=2.5), place_errors=_errors(), own_images=1100,
    ),
    Generator(
        name="painter", direction="text_to_image", style=_PAINTER, sentences=(3, 5), error_rate=0.60,
        first_sentence=0.8, kinds=_kinds(relation=2.5), place_errors=_errors(Object=3.5), own_images=1100,
    ),
)  # fmt: skip
"""Held out by default: `narrator` and `painter`."""
