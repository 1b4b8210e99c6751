import re

import pytest

from halspan.data.streams.usable_annotation import without_bad_annotation

TEXT = "A man rides. He has a hat."
FIRST, SECOND = {"start": 0, "end": 12}, {"start": 13, "end": 26, "label": "incorrect", "types": ["Object"]}
SPAN = {"start": 22, "end": 25, "type": "Object"}


def annotated(*sentences, **keys):
    return {"text": TEXT, "sentences": list(sentences), "spans": [SPAN]} | keys


BAD = {
    "label in capitals": ({"label": "Incorrect"}, "label: 'Incorrect' is not possible; did you mean incorrect"),
    "label that is no text": ({"label": [1]}, r"label: \[1\] is not possible"),
    "types without a list": ({"types": "Object"}, "types: 'Object' is a string, not a list"),
    "half of the votes": ({"votes": {"correct": 1}}, "votes.incorrect: missing"),
    "negative votes": ({"votes": {"correct": 1, "incorrect": -1}}, "votes.incorrect: -1 is negative"),
    "votes that are no object": ({"votes": 3}, "votes: 3 is an integer, not an object"),
    "an extra key": ({"lable": "correct"}, "lable: unknown key"),
}


@pytest.mark.parametrize(("change", "problem"), BAD.values(), ids=BAD)
def test_annotation_of_a_sentence_that_cannot_be_used_is_left_out_alone(change, problem):
    kept, problems = without_bad_annotation(annotated(FIRST | change, SECOND))
    expected = FIRST | ({"types": []} if "types" in change else {})
    assert kept == annotated(expected, SECOND)
    assert len(problems) == 1
    assert re.match(rf"sentences\[0\]\.{problem}", problems[0])


def test_the_usable_types_of_a_sentence_stay():
    kept, problems = without_bad_annotation(annotated(SECOND | {"types": ["Object", 3, "", "Count"]}))
    assert kept["sentences"][0]["types"] == ["Object", "Count"]
    assert [problem.partition(" ")[0] for problem in problems] == [f"sentences[0].types[{i}].type:" for i in (1, 2)]


BAD_SPANS = {
    "beyond the text": ({"start": 0, "end": 999}, "end: 999 is beyond the text's 26 characters"),
    "without an end": ({"start": 0}, "end: missing"),
    "swapped": ({"start": 9, "end": 2}, "start: 9 is after end 2"),
    "a misspelled key": ({"start": 0, "end": 2, "types": "Object"}, "types: unknown key; did you mean type"),
    "not an object": ([0, 2], "span: [0, 2] is a list, not an object"),
}


@pytest.mark.parametrize(("span", "problem"), BAD_SPANS.values(), ids=BAD_SPANS)
def test_a_span_that_cannot_be_used_is_left_out_and_the_others_stay(span, problem):
    kept, problems = without_bad_annotation(annotated(FIRST, spans=[span, SPAN]))
    assert kept == annotated(FIRST)
    assert len(problems) == 1
    assert problems[0].startswith(f"spans[0].{problem}")


def test_spans_that_are_no_list_are_left_out():
    kept, problems = without_bad_annotation(annotated(FIRST, spans="hat"))
    assert kept["spans"] == []
    assert problems == ["spans: 'hat' is a string, not a list"]


@pytest.mark.parametrize("sentences", [None, "A man rides.", [3], [{"start": 0}], [{"start": 5, "end": 2}]])
def test_what_says_which_text_is_scored_is_never_left_out(sentences):
    record = {"text": TEXT, "sentences": sentences}
    assert without_bad_annotation(record) == (record, [])


def test_a_record_whose_annotation_can_be_used_stays_as_it_is():
    votes = {"correct": 1, "incorrect": 2, "unknown": 0}
    record = annotated(FIRST | {"label": None, "types": None, "votes": None}, SECOND | {"votes": votes})
    assert without_bad_annotation(record) == (record, [])
