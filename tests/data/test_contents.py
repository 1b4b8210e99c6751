"""Tests of what is compared when a run meets its corpus again."""

import json
from dataclasses import replace

import pytest

from halspan.core.captions import Caption, Sentence, Span, Votes
from halspan.data.split.contents import Contents

CAPTIONS = tuple(
    Caption(name, f"{name[0]}.png", "g", "image_to_text", "A red door.", (Sentence(0, 11, "correct"),))
    for name in ("a1", "a2", "b1", "b2")
)
IMAGES = {caption.id: caption.id[0] * 64 for caption in CAPTIONS}
BEFORE = Contents.of(CAPTIONS, IMAGES)


def edit(**changes):
    return (CAPTIONS[0], replace(CAPTIONS[1], **changes), *CAPTIONS[2:])


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        (edit(text="A red doer."), "1 caption has another text or generator (first: 'a2')"),
        (edit(generator="h"), "1 caption has another text or generator (first: 'a2')"),
        (edit(direction="text_to_image"), "1 caption has another text or generator (first: 'a2')"),
        (edit(spans=(Span(2, 5),)), "1 caption has other labels, spans or votes (first: 'a2')"),
        (
            edit(sentences=(Sentence(0, 11, "correct", votes=Votes(1, 0)),)),
            "1 caption has other labels, spans or votes (first: 'a2')",
        ),
        (
            edit(sentences=(Sentence(0, 11, "correct", types=("Color",)),)),
            "1 caption has other labels, spans or votes (first: 'a2')",
        ),
        (CAPTIONS[2:], "2 captions of the run are not there (first: 'a1')"),
        ((*CAPTIONS, replace(CAPTIONS[0], id="c")), "1 caption is new (first: 'c')"),
        (CAPTIONS[::-1], "captions are in another order (first: 'b2' where 'a1' stood)"),
        (edit(image="c.png"), "other captions share an image file than did"),
    ],
)
def test_each_change_is_named_with_its_number_and_the_first_caption(captions, said):
    now = Contents.of(captions, {"c": "c" * 64, **IMAGES})
    assert BEFORE.find_changes(now, in_order=True) == [said]


def test_another_image_content_is_named():
    assert BEFORE.find_changes(Contents.of(CAPTIONS, {**IMAGES, "b1": "f" * 64}), in_order=True) == [
        "1 caption has another image (first: 'b1')"
    ]


def test_the_same_captions_elsewhere_are_no_change():
    moved = [replace(caption, image=f"/there/{caption.image}") for caption in CAPTIONS]
    assert BEFORE.find_changes(Contents.of(moved, IMAGES), in_order=True) == []


def test_order_and_shared_files_count_in_training_alone():
    assert BEFORE.find_changes(Contents.of(edit(image="c.png")[::-1], IMAGES), in_order=False) == []


def test_the_record_is_read_back_with_its_order():
    record = json.loads(json.dumps(BEFORE.to_record()))
    again = Contents.from_record(record)
    assert again == BEFORE
    assert list(again.captions) == list(BEFORE.captions)
    assert all(len(line) < 50 for line in record["captions"].values())


def test_the_digest_is_that_of_the_captions_in_any_order():
    assert Contents.of(CAPTIONS[::-1], IMAGES).digest == BEFORE.digest
    assert Contents.of(CAPTIONS[1:], IMAGES).digest != BEFORE.digest
