import pytest

from halspan.core.captions import Caption, Prediction, Sentence, SentenceScore, Span, Votes
from halspan.metrics.slices import slices


def predict(*rows: tuple, direction: str = "image_to_text", spans: tuple[Span, ...] = ()) -> Prediction:
    """Predict a caption of sentences: text, label, p_incorrect, and what else a sentence has."""
    sentences, scores, start = [], [], 0
    for text, label, p_incorrect, *extra in rows:
        sentences.append(Sentence(start, start + len(text), label, **(extra[0] if extra else {})))
        scores.append(SentenceScore(None, "too long") if p_incorrect is None else SentenceScore(p_incorrect))
        start += len(text) + 1
    caption = Caption("1", "1.png", "g", direction, " ".join(row[0] for row in rows), tuple(sentences), spans)
    return Prediction(caption, tuple(scores))


def test_a_slice_has_counts_means_and_auroc():
    rows = [("A b.", "correct", 0.25), ("A b.", "incorrect", 0.5), ("A b.", "incorrect", 0.125)]
    (bin_,) = slices([predict(*rows)])["length"]
    assert bin_ == {
        "min_words": 1,
        "max_words": 5,
        "n": {"correct": 1, "incorrect": 2},
        "mean": {"correct": 0.25, "incorrect": 0.3125},
        "auroc": 0.5,
    }


def test_a_slice_of_one_class_has_neither_the_other_mean_nor_an_auroc():
    (bin_,) = slices([predict(("A b.", "correct", 0.25))])["length"]
    assert bin_["mean"] == {"correct": 0.25, "incorrect": None}
    assert bin_["auroc"] is None


def test_positions_count_every_sentence_and_the_eighth_and_later_ones_share_one():
    rows = [("A.", "correct", each / 16) for each in range(10)]
    rows[1] = ("A.", "unknown", 0.5)  # not judged, but the next one is still the third
    rows[2] = ("A.", "correct", None)
    positions = slices([predict(*rows)])["position"]
    assert [each["position"] for each in positions] == [0, 3, 4, 5, 6, 7]
    assert [each["n"]["correct"] for each in positions] == [1, 1, 1, 1, 1, 3]
    assert positions[1]["mean"]["correct"] == 3 / 16
    assert positions[-1]["and_later"] is True
    assert positions[-1]["mean"]["correct"] == pytest.approx((7 + 8 + 9) / 3 / 16)
    assert not any("and_later" in each for each in positions[:-1])


def test_lengths_are_words_between_whitespace_in_bins_of_which_empty_ones_are_left_out():
    lengths = [1, 5, 6, 10, 11, 21, 30, 31, 90]
    rows = [("it's\n " * (n - 1) + "end.", "correct", 0.5) for n in lengths]
    found = slices([predict(*rows)])["length"]
    assert [(each["min_words"], each["max_words"], each["n"]["correct"]) for each in found] == [
        (1, 5, 2),
        (6, 10, 2),
        (11, 15, 1),
        (21, 30, 2),
        (31, None, 2),
    ]


def test_directions_are_apart():
    found = slices(
        [
            predict(("A.", "correct", 0.25), ("B.", "incorrect", 0.5)),
            predict(("A.", "correct", 0.75), direction="text_to_image"),
        ]
    )["direction"]
    assert {name: each["n"] for name, each in found.items()} == {
        "image_to_text": {"correct": 1, "incorrect": 1},
        "text_to_image": {"correct": 1, "incorrect": 0},
    }


def test_a_type_sets_its_incorrect_sentences_against_all_correct_ones():
    rows = [
        ("A b c d.", "incorrect", 0.75, {"types": ("Object", "Number")}),
        ("E f g h.", "incorrect", 0.25),  # the span in it is of type Text, and touches the next sentence too
        ("I j k l.", "correct", 0.5),
        ("M n o p.", "incorrect", 0.125),  # of no type
    ]
    found = slices([predict(*rows, spans=(Span(11, 20, "Text"), Span(29, 30, None)))])["type"]
    assert list(found) == ["Number", "Object", "Text"]
    assert all(each["n"] == {"correct": 1, "incorrect": 1} for each in found.values())
    assert {name: each["auroc"] for name, each in found.items()} == {"Number": 1, "Object": 1, "Text": 0}


def test_agreement_looks_at_votes_for_correct_and_incorrect_of_which_there_are_two():
    rows = [
        ("A.", "correct", 0.1, {"votes": Votes(3, 0)}),
        ("A.", "correct", 0.2, {"votes": Votes(2, 0, 1)}),  # the unknown vote does not count
        ("A.", "correct", 0.3, {"votes": Votes(2, 1)}),
        ("A.", "incorrect", 0.4, {"votes": Votes(1, 2)}),
        ("A.", "incorrect", 0.5, {"votes": Votes(0, 1, 2)}),
        ("A.", "incorrect", 0.6),
    ]
    found = slices([predict(*rows)])["agreement"]
    assert found["unanimous"]["n"] == {"correct": 2, "incorrect": 0}
    assert found["disputed"]["n"] == {"correct": 1, "incorrect": 1}
    assert found["disputed"]["auroc"] == 1
    assert found["n_voted"] == 4
    assert found["ceiling"] is None  # too few


def test_the_ceiling_is_that_of_the_judged_sentences():
    rows = [
        ("A.", "incorrect" if n % 2 else "correct", 0.5, {"votes": Votes(3 * (1 - n % 2), 3 * (n % 2))})
        for n in range(20)
    ]
    assert slices([predict(*rows)])["agreement"]["ceiling"] == 1
    rows[0] = ("A.", "unknown", *rows[0][2:])
    assert slices([predict(*rows)])["agreement"]["ceiling"] is None


def test_nothing_has_no_slices():
    found = slices([])
    assert (found["position"], found["length"], found["direction"], found["type"]) == ([], [], {}, {})
    assert found["agreement"]["n_voted"] == 0
