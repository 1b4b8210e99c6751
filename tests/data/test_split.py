"""Tests of the split by generator and image content."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from halspan.core.captions import Caption, Sentence
from halspan.core.errors import DataError
from halspan.core.text.known_texts import KnownTexts
from halspan.data.corpus import Corpus
from halspan.data.readers.alignbench import AlignBench
from halspan.data.readers.chocolate import Chocolate
from halspan.data.split.division import divide_images, group_images
from halspan.data.split.parts import (
    IMAGE_TAKEN,
    PARTS,
    TEXT_TAKEN,
    Split,
    check_disjoint,
    describe_left_out,
    match_generators,
)

HASHES = st.sets(st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}"), max_size=30)


def caption(generator: str, image: str, *, labels=("correct", "incorrect"), direction="image_to_text") -> Caption:
    sentences = tuple(Sentence(3 * index, 3 * index + 2, label) for index, label in enumerate(labels))
    text = "ab " * len(labels)
    return Caption(f"{generator}/{image}", image, generator, direction, text, sentences)


@pytest.fixture
def corpus(tmp_path, paint):
    """Return captioners a, b and c of the same 40 images, and a text-to-image model t with 10 of its own."""
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


def test_a_misspelled_name_is_asked_about(corpus):
    with pytest.raises(DataError, match="matches no generator; did you mean direction:text_to_image"):
        Split(held_out=("Direction:text_to_images",)).apply(corpus)


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
        DataError,
        match=r"test_heldout is empty: 2 of 2 captions are left out: their images are in train or val \(b 2\); raise",
    ):
        Split(held_out=("b",)).apply(Corpus(name="test", captions=captions, image_root=tmp_path))


def test_one_image_is_not_enough_to_validate_on(corpus):
    one = replace(corpus, captions=corpus.captions[:1])
    with pytest.raises(
        DataError, match="val is empty, as the train generators have captions of fewer than two images; add"
    ):
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


def test_held_out_captions_on_images_that_train_are_counted_and_said(corpus, caplog):
    parts = Split(held_out=("c",)).apply(corpus)
    n_kept = len(parts.test_heldout)
    assert [(each.part, each.reason, each.by_generator) for each in parts.left_out] == [
        ("test_heldout", IMAGE_TAKEN, {"c": 40 - n_kept})
    ]
    assert f"test_heldout: {40 - n_kept} of 40 captions are left out: {IMAGE_TAKEN} (c {40 - n_kept})" in caplog.text
    assert parts.to_record()["left_out"] == [
        {"part": "test_heldout", "reason": IMAGE_TAKEN, "by_generator": {"c": 40 - n_kept}}
    ]


def test_a_larger_share_for_the_tests_keeps_more_held_out_captions_and_all_of_before(corpus):
    few, many = (Split(held_out=("c",), test_share=share).apply(corpus).test_heldout for share in (0.15, 0.5))
    assert 2 * len(few) < len(many)
    assert {c.id for c in few} < {c.id for c in many}


def test_shares_are_kept_and_a_larger_test_holds_the_images_of_a_smaller_one():
    hashes = [f"{(2 * number + 1) * 2**64 // 2000:016x}" for number in range(1000)]  # fractions 0.0005, 0.0015, ...
    small, large = (divide_images(hashes, val_share=0.2, test_share=share) for share in (0.1, 0.3))
    assert Counter(small.values()) == {"train": 700, "val": 200, "test_seen": 100}
    assert Counter(large.values()) == {"train": 500, "val": 200, "test_seen": 300}
    assert all(large[hash_] == "test_seen" for hash_ in hashes if small[hash_] == "test_seen")


def test_a_share_for_held_out_generators_keeps_their_images_and_takes_no_others_from_training(corpus):
    """Return captions: c captions 20 of the 40 images of a and b; t has its own ten."""
    some = replace(corpus, captions=tuple(x for x in corpus.captions if x.generator != "c" or int(x.image[:-4]) < 20))
    before, after = (Split(held_out=("c",), held_out_share=share).apply(some) for share in (None, 0.6))
    kept = {c.image for c in after.test_heldout}
    assert len(kept) > 2 * len(before.test_heldout)
    assert kept > {c.image for c in before.test_heldout}
    unshared = [{c.id for c in parts.train if int(c.image[:-4]) >= 20} for parts in (before, after)]
    assert unshared[0] == unshared[1]
    assert {c.image for c in after.test_seen} >= kept
    assert f"{20 - len(kept)} of 20 captions are left out" in describe_left_out(
        "test_heldout", len(kept), after.left_out
    )


def test_held_out_generators_share_as_many_images_as_was_said():
    hashes = [f"{(2 * number + 1) * 2**64 // 2000:016x}" for number in range(1000)]
    shared = set(hashes[::2])
    parts = divide_images(hashes, val_share=0.2, test_share=0.1, shared=shared, shared_test_share=0.4)
    assert Counter(parts[hash_] for hash_ in shared) == {"train": 200, "val": 100, "test_seen": 200}
    assert Counter(parts[hash_] for hash_ in hashes if hash_ not in shared) == {
        "train": 350,
        "val": 100,
        "test_seen": 50,
    }


@given(HASHES, st.floats(0.01, 0.8))
def test_each_part_has_an_image_with_a_share_for_held_out_generators_too(hashes, share):
    parts = divide_images(hashes, shared=hashes, shared_test_share=share)
    assert Counter(parts.values()) == Counter(divide_images(hashes, test_share=share).values())


@given(HASHES)
def test_without_a_share_for_held_out_generators_images_are_divided_as_ever(hashes):
    """As version 1 divided them: sorted by hash, and cut where the first 64 bits reach 70 % and 85 %."""
    ordered = sorted(hashes)
    parts = divide_images(hashes, shared=hashes)
    assert list(parts) == ordered
    n_train, n_val = (sum(int(each[:16], 16) / 2**64 < cut for each in ordered) for cut in (1 - 0.15 - 0.15, 1 - 0.15))
    if 0 < n_train < n_val < len(ordered):
        assert list(parts.values()).index("val") == n_train
        assert list(parts.values()).index("test_seen") == n_val


@pytest.mark.parametrize(
    "shares", [{"held_out_share": 0.85}, {"val_share": 0.5, "test_share": 0.5}, {"val_share": 0.0}, {"test_share": 1.0}]
)
def test_shares_leave_something_to_each_part(shares):
    with pytest.raises(ValidationError):
        Split(**shares)


def painted(tmp_path, paint, *, n_prompts=40, texts=None):
    """Return painters p and q, who paint the same prompts, each a picture of its own."""
    captions = []
    for number in range(2 * n_prompts):
        paint(tmp_path / f"{number}.png", number)
        text = f"Bike {number % n_prompts}. Sky." if texts is None else texts[number]
        sentences = (Sentence(0, text.index(".") + 1, "correct"), Sentence(text.index(".") + 2, len(text), "incorrect"))
        generator = "pq"[number // n_prompts]
        captions.append(Caption(str(number), f"{number}.png", generator, "text_to_image", text, sentences))
    return Corpus(name="test", captions=tuple(captions), image_root=tmp_path)


def test_texts_that_stand_in_train_are_counted_and_said(tmp_path, paint, caplog):
    parts = Split(held_out=("q",)).apply(painted(tmp_path, paint))
    n_train, n_seen = len(parts.train), len(parts.test_seen)
    known = parts.to_record()["texts"]["in_train"]
    assert known["test_heldout"] == {"captions": n_train, "sentences": n_train + 40}  # each own first one, and "Sky."
    assert known["test_seen"] == {"captions": 0, "sentences": n_seen}
    assert f"test_heldout ({n_train} of 40 captions, {n_train + 40} of 80 sentences)" in caplog.text
    assert "split.keep_texts_together=true keeps captions of one text in one part" in caplog.text


def test_texts_are_compared_without_case_white_space_and_composition(tmp_path, paint):
    """The first 40 train, tune and test; the other 40 are held out, and say the same otherwise."""
    texts = [f"Caf\u00e9 {number}. Sky." for number in range(40)]
    texts += [f"CAFE\u0301  {number}. \nsky." for number in range(40)]
    parts = Split(held_out=("q",)).apply(painted(tmp_path, paint, texts=texts))
    assert parts.known_texts["test_heldout"]["captions"] == len(parts.train)


def test_the_texts_of_train_can_be_read_back_from_the_record(corpus):
    parts = Split(held_out=("c",)).apply(corpus)
    texts = KnownTexts.from_record(json.loads(json.dumps(parts.to_record()))["texts"]["train"])
    assert texts == parts.taken.texts
    assert texts | KnownTexts() == texts


def test_texts_kept_together_are_in_train_and_val_or_in_a_test(tmp_path, paint):
    parts = Split(held_out=("q",), keep_texts_together=True).apply(painted(tmp_path, paint))
    taken = {c.text for c in (*parts.train, *parts.val)}
    assert not taken & {c.text for c in (*parts.test_seen, *parts.test_heldout)}
    n_taken = len(parts.train) + len(parts.val)
    assert [(each.reason, each.by_generator) for each in parts.left_out] == [(TEXT_TAKEN, {"q": n_taken})]
    assert parts.known_texts["test_heldout"]["captions"] == 0


def test_images_that_share_a_text_share_a_part_whatever_else_there_is(tmp_path, paint):
    corpus = painted(tmp_path, paint, n_prompts=60)
    split = Split(keep_texts_together=True)
    part_of = {c.id: name for name, captions in split.apply(corpus).parts().items() for c in captions}
    assert len(part_of) == 120
    assert all(part_of[str(number)] == part_of[str(number + 60)] for number in range(60))
    fewer = replace(corpus, captions=tuple(c for c in corpus.captions if int(c.id) % 60 >= 10))
    for name, captions in split.apply(fewer).parts().items():
        assert all(part_of[c.id] == name for c in captions)


def test_without_shared_texts_keeping_them_together_changes_nothing(tmp_path, paint):
    corpus = painted(tmp_path, paint, texts=[f"Bike {number}. Sky {number}." for number in range(80)])
    apart, together = (Split(keep_texts_together=keep).apply(corpus) for keep in (False, True))
    assert apart.parts() == together.parts()


def test_images_are_grouped_through_others_and_groups_do_not_lean_to_train():
    groups = group_images([("a", "x"), ("b", "y"), ("c", "z"), ("b", "x"), ("d", "w"), ("d", "y")])
    assert groups["a"] == groups["b"] == groups["d"]
    assert groups["c"] == "c"
    hashes = [f"{number * 2**64 // 5000:016x}" for number in range(5000)]
    shared = group_images([(hash_, str(index % 500)) for index, hash_ in enumerate(hashes)])
    n_train = Counter(divide_images(shared.values()).values())["train"]
    assert n_train == pytest.approx(350, abs=3 * (500 * 0.7 * 0.3) ** 0.5)  # of 500 groups; three standard deviations


def test_one_text_everywhere_cannot_be_divided(tmp_path, paint):
    with pytest.raises(DataError, match="fewer than two groups of images that share texts"):
        Split(keep_texts_together=True).apply(painted(tmp_path, paint, texts=["Bike. Sky."] * 80))


@pytest.mark.parametrize("part", ["val", "test_seen", "test_heldout"])
def test_a_text_in_two_parts_is_noticed(tmp_path, paint, part):
    parts = Split(held_out=("q",), keep_texts_together=True).apply(painted(tmp_path, paint))
    same = replace(getattr(parts, part)[0], text=parts.train[0].text.upper())
    with pytest.raises(DataError, match=f"in train and '{same.id}' in {part} have the same text"):
        check_disjoint(replace(parts, **{part: (same,)}))


def test_nearly_every_sentence_of_crowd_judged_captions_stands_in_train(shared_data, caplog):
    parts = Split().apply(AlignBench(path=shared_data / "flickr8k_crowd").load())
    assert parts.known_texts["test_seen"] == {"captions": 0, "sentences": 1825}
    assert parts.to_record()["parts"]["test_seen"]["n"]["sentences"] == 1840
    assert "test_seen (0 of 36 captions, 1,825 of 1,840 sentences)" in caplog.text
    assert "keep_texts_together" not in caplog.text  # no caption occurs twice as a whole, so it would change nothing


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
