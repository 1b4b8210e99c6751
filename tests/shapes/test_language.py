"""What sentences of the shapes world say is true when it should be, and false in exactly one way when it should not."""

import random

import pytest

from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.shapes.generators import GENERATORS
from halspan.data.shapes.language import (
    ERROR_TYPES_BY_KIND,
    KINDS,
    NUMBERS,
    PLACES,
    Statement,
    Style,
    corrupt,
    true_statements,
    word,
)
from halspan.data.shapes.scenes import Scene, Thing, sample_scene

ROWS = {"top": 0, "middle": 1, "bottom": 2}
COLUMNS = {"left": 0, "centre": 1, "right": 2}


def looks_like(thing: Thing | None, slots: dict[str, str]) -> bool:
    asked = {name: slots[name] for name in ("color", "shape", "size", "texture") if name in slots}
    return thing is not None and all(getattr(thing, name) == value for name, value in asked.items())


def where(scene: Scene, color: str, shape: str) -> list[tuple[int, int]]:
    found = []
    for index, thing in enumerate(scene.cells):
        if thing is not None and (thing.color, thing.shape) == (color, shape):
            found.append((index // 3, index % 3))
    return found


def holds(statement: Statement, scene: Scene) -> bool:
    """Judge a statement from the scene alone, written independently of the code that makes statements."""
    slots = dict(statement.slots)
    if statement.kind == "place":
        row, column = slots["place"].split()
        return looks_like(scene.cells[3 * ROWS[row] + COLUMNS[column]], slots)
    if statement.kind == "presence":
        return any(looks_like(thing, slots) for thing in scene.cells)
    if statement.kind == "number":
        shapes = [thing.shape for thing in scene.cells if thing is not None]
        return shapes.count(slots["shape"]) == NUMBERS.index(slots["number"]) + 1
    if statement.kind == "relation":
        [(row, column)] = where(scene, slots["color"], slots["shape"])
        [(row2, column2)] = where(scene, slots["color2"], slots["shape2"])
        return {
            "left of": row == row2 and column < column2,
            "right of": row == row2 and column > column2,
            "above": column == column2 and row < row2,
            "below": column == column2 and row > row2,
        }[slots["relation"]]
    if statement.kind == "background":
        return scene.background == slots["background"]
    shape, attribute = {"direction": ("arrow", "direction"), "text": ("card", "letter")}[statement.kind]
    [thing] = [t for t in scene.cells if t is not None and (t.shape, t.color) == (shape, slots["color"])]
    return getattr(thing, attribute) == slots[attribute]


def many_statements() -> list[tuple[Statement, Scene, random.Random]]:
    found = []
    for seed in range(150):
        rng = random.Random(seed)
        scene = sample_scene(rng)
        found += [(statement, scene, rng) for kind in KINDS for statement in true_statements(scene, kind, rng)]
    return found


STATEMENTS = many_statements()


def test_true_statements_hold_in_their_scene() -> None:
    assert {statement.kind for statement, _, _ in STATEMENTS} == set(KINDS)
    assert all(holds(statement, scene) for statement, scene, _ in STATEMENTS)


@pytest.mark.parametrize("error_type", HALLUCINATION_TYPES)
def test_errors_of_every_type_make_a_statement_false(error_type: str) -> None:
    wrong = [
        (corrupt(statement, scene, error_type, rng), scene)
        for statement, scene, rng in STATEMENTS
        if error_type in ERROR_TYPES_BY_KIND[statement.kind]
    ]
    assert len(wrong) > 50
    assert not any(holds(statement, scene) for statement, scene in wrong)


def test_a_wrong_place_is_empty_and_the_thing_stands_elsewhere() -> None:
    for true, scene, rng in STATEMENTS:
        if true.kind == "place":
            wrong = corrupt(true, scene, "Location", rng)
            assert scene.cells[PLACES.index(wrong.slots["place"])] is None
            assert any(looks_like(thing, dict(wrong.slots)) for thing in scene.cells)


def test_an_invented_thing_has_a_shape_the_scene_does_not_hold() -> None:
    for true, scene, rng in STATEMENTS:
        if "Illusion" in ERROR_TYPES_BY_KIND[true.kind]:
            wrong = corrupt(true, scene, "Illusion", rng)
            assert wrong.slots["shape"] not in scene.shape_counts()


def test_wording_marks_the_wrong_words_and_nothing_else() -> None:
    statement = Statement("place", {"size": "small", "color": "orange", "shape": "star", "place": "top left"})
    style = Style({"place": ("here is {a_thing}, {place}.",)}, {"small": "little", "top left": "upper left"})
    rng = random.Random(0)
    assert word(statement, style, rng) == ("Here is a little orange star, upper left.", None)
    text, span = word(statement.with_error("Attribute", color="red"), style, rng)
    assert (text, span) == ("Here is a little red star, upper left.", (17, 20))
    text, span = word(statement.with_error("Location", place="middle right"), style, rng)
    assert text[slice(*span)] == "middle right"


def test_an_invented_thing_is_marked_without_its_article() -> None:
    statement = Statement("presence", {"color": "orange", "shape": "star"}, ("color", "shape"), "Illusion")
    text, span = word(statement, Style({"presence": ("{a_thing} too.",)}), random.Random(0))
    assert (text, text[slice(*span)]) == ("An orange star too.", "orange star")


def test_nouns_agree_with_numbers() -> None:
    style = Style({"number": ("{number} {shapes}.",)})
    words = [("one", "cross"), ("two", "cross"), ("three", "ring")]
    texts = [word(Statement("number", {"number": n, "shape": s}), style, random.Random(0))[0] for n, s in words]
    assert texts == ["One cross.", "Two crosses.", "Three rings."]


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda generator: generator.name)
def test_every_generator_can_word_every_kind(generator) -> None:
    for statement, _, rng in STATEMENTS[:400]:
        text, span = word(statement, generator.style, rng)
        assert text[0].isupper() or not text[0].isalpha()
        assert span is None
        assert "  " not in text
