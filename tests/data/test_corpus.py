"""Tests of what a corpus requires of its captions."""

import pytest

from halspan.core.captions import Caption, Sentence, Span
from halspan.core.errors import DataError
from halspan.data.corpus import Corpus, Skips, join_sentences


def caption(id_: str, type_: str | None = None) -> Caption:
    return Caption(id_, "1.png", "a", "image_to_text", "ab", (Sentence(0, 2, "incorrect"),), (Span(0, 1, type_),))


def test_ids_are_unique(tmp_path):
    with pytest.raises(DataError, match="id 'x' occurs 2 times; make ids unique"):
        Corpus(name="test", captions=(caption("x"), caption("y"), caption("x")), image_root=tmp_path)


def test_every_type_is_in_the_taxonomy(tmp_path):
    with pytest.raises(DataError, match="type 'Color' is not in its taxonomy; one of Object, Text"):
        Corpus(name="test", captions=(caption("x", "Color"),), image_root=tmp_path, taxonomy=("Object", "Text"))


def test_a_corpus_without_captions_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no caption can be used .left out: nothing.; repair the records or give"):
        Corpus(name="test", captions=(), image_root=tmp_path)


def test_a_span_may_have_no_type(tmp_path):
    assert Corpus(name="test", captions=(caption("x"),), image_root=tmp_path).generators == ("a",)


def test_sentences_are_joined_by_one_space_and_their_ranges_are_half_open():
    text, ranges = join_sentences([" A man. ", "He waves."])
    assert text == "A man. He waves."
    assert [text[start:end] for start, end in ranges] == ["A man.", "He waves."]


def test_problems_are_counted_and_listed():
    skips = Skips("skip")
    for number in range(7):
        skips.add("malformed records", f"line {number}")
    assert skips.counts == {"malformed records": 7}
    assert skips.problems == {"malformed records": [f"line {number}" for number in range(7)]}


def test_the_first_problem_is_raised_at_once_unless_more_are_asked_for():
    with pytest.raises(
        DataError, match=r"^line 1 .data.on_error=skip or --on-error skip leaves out and counts malformed records.$"
    ):
        Skips("raise").add("malformed records", "line 1")


def test_problems_that_are_refused_are_raised_together_each_remedy_once():
    skips = Skips("raise", most=4)
    skips.add("malformed records", "line 1")
    skips.add("malformed records", "line 2")
    skips.refuse("no image", "data.images names their folder")
    with pytest.raises(DataError) as error:
        skips.finish()
    summary, *lines = str(error.value).splitlines()
    assert summary.startswith("3 problems of the captions (halspan data check lists all")
    assert lines == [
        "line 1",
        "line 2",
        "no image",
        "(data.on_error=skip or --on-error skip leaves out and counts malformed records)",
        "(data.images names their folder)",
    ]


def test_no_more_problems_are_collected_than_one_error_names():
    skips = Skips("raise", most=2)
    skips.add("malformed records", "line 1")
    with pytest.raises(DataError, match=r"^the first 2 problems of the captions"):
        skips.add("malformed records", "line 2")
