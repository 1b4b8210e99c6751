import pytest

from halspan.core.captions import Caption, Sentence
from halspan.evaluation.sampling import JudgeSpec


def captions(name, number):
    return [
        Caption(f"{name}/{each}", "1.png", "a", "image_to_text", "A dog.", (Sentence(0, 6, "correct"),))
        for each in range(number)
    ]


PARTS = {"train": captions("train", 30), "val": captions("val", 30), "test_seen": captions("seen", 4)}


def ids(sample, part="val"):
    return [caption.id for caption in sample.parts[part]]


def test_each_part_but_train_has_at_most_so_many_captions_in_their_order():
    sample = JudgeSpec(captions=5).choose(PARTS, seed=1)
    assert {part: len(of) for part, of in sample.parts.items()} == {"train": 30, "val": 5, "test_seen": 4}
    assert sample.sampled_from == {"val": 30}
    assert ids(sample) == [caption.id for caption in PARTS["val"] if caption.id in ids(sample)]


def test_the_choice_is_the_seeds_and_the_ids_alone_and_a_larger_one_holds_it():
    def chosen(number, seed, of=PARTS["val"]):
        return set(ids(JudgeSpec(captions=number).choose({"val": of}, seed=seed)))

    assert chosen(5, 1) == chosen(5, 1, PARTS["val"][::-1])
    assert chosen(5, 1) < chosen(9, 1)
    assert chosen(5, 1) != chosen(5, 2)


@pytest.mark.parametrize("number", [None, 30, 31])
def test_nothing_is_left_out_where_there_is_no_limit_or_no_more_than_it(number):
    sample = JudgeSpec(captions=number).choose(PARTS, seed=1)
    assert ids(sample) == [caption.id for caption in PARTS["val"]]
    assert sample.sampled_from == {}
