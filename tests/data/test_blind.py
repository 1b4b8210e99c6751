"""Tests of the exchange of images for the blind control."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.captions import Caption, Sentence
from halspan.data.controls import exchange_images
from halspan.data.corpus import Corpus


def caption(id_: str, image: str, direction="image_to_text") -> Caption:
    return Caption(id_, image, "a", direction, "ab", (Sentence(0, 2, "correct"),))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Return twelve pictures, of which 0 and 10, and 1 and 11, are byte-identical."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        (folder / f"{number}.png").write_bytes(bytes([number % 10]))
    return folder


def exchanged(folder, captions, seed=0):
    corpus = Corpus(name="test", captions=tuple(captions), image_root=folder)
    after, reasons = exchange_images(corpus, captions, seed=seed)
    return corpus, after, reasons


@given(images=st.lists(st.tuples(st.integers(0, 11), st.booleans()), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_no_caption_keeps_an_image_of_the_content_it_had_nor_gets_one_of_the_other_direction(folder, images, seed):
    directions = ["text_to_image" if painted else "image_to_text" for _, painted in images]
    captions = [
        caption(str(index), f"{number}.png", direction)
        for index, ((number, _), direction) in enumerate(zip(images, directions, strict=True))
    ]
    corpus, after, reasons = exchanged(folder, captions, seed)
    before = {c.id: c for c in captions}
    for c in after:
        assert corpus.image_hash(c) != corpus.image_hash(before[c.id])
        assert c.image in {other.image for other in captions if other.direction == c.direction}
        assert replace(c, image=before[c.id].image) == before[c.id]
    assert {c.direction for c in captions} == {c.direction for c in after} | set(reasons)


def test_captions_of_one_image_content_get_the_same_other_image(folder):
    captions = [caption("x", "0.png"), caption("y", "10.png"), caption("z", "2.png"), caption("w", "3.png")]
    _, after, _ = exchanged(folder, captions)
    assert after[0].image == after[1].image


def test_every_image_content_is_given_to_somebody(folder):
    corpus, after, _ = exchanged(folder, [caption(str(number), f"{number}.png") for number in range(10)])
    assert len({corpus.image_hash(c) for c in after}) == 10


def test_the_seed_decides(folder):
    captions = [caption(str(number), f"{number}.png") for number in range(10)]
    assert exchanged(folder, captions, seed=1)[1] == exchanged(folder, captions, seed=1)[1]
    assert exchanged(folder, captions, seed=1)[1] != exchanged(folder, captions, seed=2)[1]


def test_a_direction_with_one_image_content_is_left_out_with_the_reason(folder):
    captions = [caption("x", "0.png"), caption("y", "10.png"), caption("z", "2.png", "text_to_image")]
    captions.append(caption("w", "3.png", "text_to_image"))
    _, after, reasons = exchanged(folder, captions)
    assert [c.id for c in after] == ["z", "w"]
    assert reasons == {"image_to_text": "one image only, so there is none to exchange it for"}
