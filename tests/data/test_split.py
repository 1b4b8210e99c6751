"""Tests of the split by generator and image content."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.captions import Caption, Sentence
from halspan.core.errors import DataError
from halspan.data.alignbench import AlignBench
from halspan.data.chocolate import Chocolate
from halspan.data.corpus import Corpus
from halspan.data.split import PARTS, Split, check_disjoint, divide_images, match_generators

HASHES = st.sets(st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}"), max_size=30)


def caption(generator: str, image: str, *, labels=("correct", "incorrect"), direction="image_to_text") -> Caption:
    sentences = tuple(Sentence(3 * index, 3 * index + 2, label) for index, label in enumerate(labels))
    text = "ab " * len(labels)
    return Caption(f"{generator}/{image}", image, generator, direction, text, sentences)


@pytest.fixture
def corpus(tmp_path, paint):
    """Captioners a, b and c of the same 40 images, and a text-to-image model t with 10 of its own."""
    for number in range(50):
        paint(tmp_path / f"{number}.png", number)
    captions = [caption(generator, f"{number}.png") for number in range(40) for generator in "abc"]
    captions += [caption("t", f"{number}.png", direction="text_to_image") for number in range(40, 50)]
    return Corpus(name="test", captions=tuple(captions), image_root=tmp_path)


def test_parts_are_disjoint_in_images_and_held_out_generators_are_judged_on_unseen_ones(corpus):
    parts = Split(held_out=("c", "t")).apply(corpus)
    images = {name: {corpus.image_hash(c) for c in captions} for name, captions in parts.parts().items()}
    assert not images["train"] & images["val"]
    assert not (images["train"] | images["val"]) & (images["test_seen"] | images["test_heldout"])
    assert len(images["train"] | images["val"] | images["test_seen"]) == 40
    assert {c.generator for c in (*parts.train, *parts.val, *parts.test_seen)} == {"a", "b"}
    assert Counter(c.generator for c in parts.test_heldout) == {"c": len(images["test_seen"]), "t": 10}


def test_every_caption_is_in_one_part_or_counted(corpus):
    parts = Split(train=("a",), held_out=("c",)).apply(corpus)
    used = [c.id for captions in parts.parts().values() for c in captions]
    assert len(used) == len(set(used))
    n_seen = len(parts.test_seen)
    assert parts.unused == {"b": 40, "t": 10, "c": 40 - n_seen}
    assert len(used) + sum(parts.unused.values()) == len(corpus.captions)


def test_an_image_stays_in_its_part_whatever_its_name_and_whatever_else_there_is(corpus, tmp_path):
    before = Split(held_out=("c",)).apply(corpus)
    for path in sorted(tmp_path.glob("*.png")):
        path.rename(tmp_path / f"renamed-{path.name}")
    captions = [replace(c, image=f"renamed-{c.image}") for c in corpus.captions if c.generator != "t"]
    after = Split(held_out=("c",)).apply(replace(corpus, captions=tuple(captions)))
    assert [c.id for c in after.train] == [c.id for c in before.train if c.generator != "t"]


def test_byte_identical_images_under_different_names_share_a_part(tmp_path, paint):
    captions = []
    for number in range(20):
        for name in (f"{number}.png", f"{number}.txt.png"):
            paint(tmp_path / name, number)
            captions.append(caption("a", name))
    parts = Split().apply(Corpus(name="test", captions=tuple(captions), image_root=tmp_path))
    for name, part in parts.parts().items():
        assert len({c.image.partition(".")[0] for c in part}) * 2 == len(part), name


def test_without_train_every_generator_that_is_not_held_out_trains(corpus):
    assert Split(held_out=("a",)).apply(corpus).train_generators == ("b", "c", "t")


def test_generators_may_be_named_by_direction(corpus):
    parts = Split(train=("direction:image_to_text",), held_out=("direction:text_to_image",)).apply(corpus)
    assert (parts.train_generators, parts.held_out_generators) == (("a", "b", "c"), ("t",))


@pytest.mark.parametrize("key", ["train", "held_out"])
@pytest.mark.parametrize("name", ["d", "direction:sideways"])
def test_a_name_that_matches_nothing_lists_what_there_is(corpus, key, name):
    options = "a, b, c, t, direction:image_to_text, direction:text_to_image"
    with pytest.raises(DataError, match=rf"split\.{key}: '{name}' matches no generator; there are {options}"):
        Split(**{key: (name,)}).apply(corpus)


def test_a_generator_on_both_sides_is_an_error(corpus):
    with pytest.raises(DataError, match=r"split\.train: 't' is in split\.held_out too"):
        Split(train=("a", "t"), held_out=("direction:text_to_image",)).apply(corpus)


def test_holding_out_every_generator_is_an_error(corpus):
    with pytest.raises(DataError, match=r"split\.held_out: a, b, c, t are all generators; leave one to train on"):
        Split(held_out=("direction:image_to_text", "t")).apply(corpus)


def test_training_on_no_generator_is_an_error(corpus):
    with pytest.raises(DataError, match=r"split\.train: names no generator; some of a, b, c, t"):
        Split(train=()).apply(corpus)


def test_without_held_out_generators_the_part_is_empty_with_a_reason(corpus):
    parts = Split().apply(corpus)
    assert parts.test_heldout == ()
    assert parts.reasons == {"test_heldout": "split.held_out names no generator"}


def test_a_held_out_generator_whose_images_all_train_is_an_error(tmp_path, paint):
    images = [paint(tmp_path / f"{number}.png", number).name for number in range(2)]
    captions = tuple(caption(generator, image) for image in images for generator in "ab")
    with pytest.raises(
        DataError, match="test_heldout is empty, as every image of b is in train or val too; add images"
    ):
        Split(held_out=("b",)).apply(Corpus(name="test", captions=captions, image_root=tmp_path))


def test_one_image_is_not_enough_to_validate_on(corpus):
    one = replace(corpus, captions=corpus.captions[:1])
    with pytest.raises(DataError, match="val is empty, as the train generators have captions of one image only"):
        Split().apply(one)


def test_two_images_leave_no_test_which_is_said(corpus):
    two = replace(corpus, captions=tuple(c for c in corpus.captions if c.image in ("0.png", "1.png")))
    assert Split().apply(two).reasons["test_seen"].startswith("empty: ")


@pytest.mark.parametrize("label", ["correct", "incorrect", "unknown", None])
def test_one_class_is_not_enough_to_train_on(corpus, label):
    captions = tuple(caption(c.generator, c.image, labels=(label,)) for c in corpus.captions)
    with pytest.raises(DataError, match=r"train has one class only: .* correct and .* incorrect sentences; train on"):
        Split().apply(replace(corpus, captions=captions))


def test_one_class_in_a_test_is_recorded(corpus):
    captions = [c if c.generator == "a" else caption("t", c.image, labels=("correct",)) for c in corpus.captions]
    parts = Split(held_out=("t",)).apply(replace(corpus, captions=tuple({c.id: c for c in captions}.values())))
    n = len(parts.test_heldout)
    assert parts.reasons == {"test_heldout": f"one class only: {n} correct and 0 incorrect sentences"}


def test_the_record_holds_generators_images_captions_and_counts(corpus):
    parts = Split(held_out=("c", "t")).apply(corpus)
    record = parts.to_record()
    assert record["generators"] == {"train": ["a", "b"], "held_out": ["c", "t"]}
    assert tuple(record["parts"]) == PARTS
    train = record["parts"]["train"]
    n = len(parts.train)
    assert train["n"] == {"captions": n, "images": n // 2, "sentences": 2 * n, "incorrect": n, "unknown": 0}
    assert train["captions"] == [c.id for c in parts.train]
    assert set(train["images"]) == {corpus.image_hash(c) for c in parts.train}


@pytest.mark.parametrize("part", ["val", "test_seen", "test_heldout"])
def test_an_image_in_two_parts_is_noticed(corpus, part):
    parts = Split(held_out=("t",)).apply(corpus)
    with pytest.raises(DataError, match=f"is in train and in {part}"):
        check_disjoint(replace(parts, **{part: parts.train[:1]}))


def test_a_held_out_generator_in_train_is_noticed(corpus):
    parts = Split(held_out=("t",)).apply(corpus)
    with pytest.raises(DataError, match="held-out generator 't' is in train"):
        check_disjoint(replace(parts, train=(*parts.train, *parts.test_heldout[:1]), test_heldout=()))


def test_the_share_of_an_image_is_read_from_the_first_bits_of_its_hash():
    hashes = {share: f"{int(share * 2**64):016x}" + "0" * 48 for share in (0.0, 0.69, 0.71, 0.84, 0.86, 0.99)}
    parts = divide_images(hashes.values())
    assert [parts[hash_] for hash_ in hashes.values()] == ["train", "train", "val", "val", "test_seen", "test_seen"]


@given(HASHES)
def test_each_part_has_an_image_where_there_are_enough(hashes):
    counts = Counter(divide_images(hashes).values())
    enough = ["train", "val", "test_seen"][: len(hashes)]
    assert sum(counts.values()) == len(hashes)
    assert all(counts[part] for part in enough)


def test_names_are_matched_in_alphabetical_order(corpus):
    assert match_generators("split.held_out", ("t", "a"), corpus) == ("a", "t")


def test_the_sample_of_alignbench_splits_with_its_smallest_generators_held_out(shared_data):
    corpus = AlignBench(path=shared_data / "alignbench_sample").load()
    parts = Split(held_out=("llama-4", "sd")).apply(corpus)
    assert {c.generator for c in parts.test_heldout} == {"llama-4", "sd"}
    assert parts.reasons == {}


def test_charts_that_are_byte_identical_never_leak_from_train_to_a_test(shared_data):
    corpus = Chocolate(path=shared_data / "chocolate").load()
    parts = Split(held_out=("bard", "gpt4v")).apply(corpus)
    trained = {corpus.image_path(c).read_bytes() for c in (*parts.train, *parts.val)}
    assert not trained & {corpus.image_path(c).read_bytes() for c in (*parts.test_seen, *parts.test_heldout)}
