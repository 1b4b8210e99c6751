"""Tests of parsing hallucinated words and finding them in their sentence."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.errors import DataError
from halspan.data.readers.error_words import match_words, parse_words


def found(sentence: str, *words: str) -> list[tuple[str | None, str | None]]:
    """Return the text at each place that was found, and how it was found."""
    return [
        (None if match.start is None else sentence[match.start : match.end], match.how)
        for match in match_words(sentence, words)
    ]


@pytest.mark.parametrize(
    ("value", "words", "form"),
    [
        (None, (), "null"),
        (math.nan, (), "null"),
        ("", (), "empty string"),
        ("  ", (), "empty string"),
        ([], (), "empty list"),
        ([None, ""], (), "list"),
        ("a red hat", ("a red hat",), "string"),
        (["red", " two "], ("red", "two"), "list"),
        ('["red", "two"]', ("red", "two"), "JSON list"),
        ("[]", (), "JSON list"),
        ("['red', 'it\\'s']", ("red", "it's"), "Python list"),
        ("[sic]", ("[sic]",), "string"),
        ("[1, 2]", ("[1, 2]",), "string"),
    ],
)
def test_words_are_read_from_every_form(value, words, form):
    assert parse_words(value) == (words, form)


@pytest.mark.parametrize("value", [3, {"word": "red"}, True, ["red", 3]])
def test_a_cell_without_words_is_an_error(value):
    with pytest.raises(DataError, match="write words as a string or a list of strings"):
        parse_words(value)


def test_words_are_found_as_they_stand():
    assert found("A man in a red hat.", "red hat") == [("red hat", "exact")]


def test_a_word_inside_another_one_is_not_it():
    sentence = "A woman and a man."
    (match,) = match_words(sentence, ["man"])
    assert (match.start, match.end, match.ambiguous) == (14, 17, False)
    assert found("A woman.", "man") == [(None, None)]


def test_a_curly_apostrophe_ends_a_word():
    assert found("The cardinal’s head.", "cardinal") == [("cardinal", "exact")]


@pytest.mark.parametrize(
    ("sentence", "words", "place"),
    [
        ("A sign reads ‘Castro’.", "'Castro'", "‘Castro’"),
        ('A sign reads "Castro".', "“Castro”", '"Castro"'),
        ("The fence post is gray.", "the fence  post", "The fence post"),
        ("On  the\nleft side.", "on the left", "On  the\nleft"),
        ("A deep–dish pizza.", "deep-dish", "deep–dish"),
        ("A cafe\u0301 at night.", "caf\u00e9", "cafe\u0301"),
        ("A co\u00adworker waves.", "coworker", "co\u00adworker"),
        ("Die STRASSE ist leer.", "Straße", "STRASSE"),
    ],
    ids=["single quotes", "double quotes", "case and spaces", "a line break", "dash", "accent", "soft hyphen", "ß"],
)
def test_quotes_dashes_whitespace_case_and_accents_may_be_written_otherwise(sentence, words, place):
    assert found(sentence, words) == [(place, "folded")]


@pytest.mark.parametrize("words", ["red,", "“red”", "(red).", "' red '"])
def test_punctuation_around_the_words_may_differ(words):
    assert found("A red hat.", words) == [("red", "trimmed")]


def test_a_trailing_comma_that_is_in_the_sentence_belongs_to_the_words():
    sentence = "Labels like ‘a2’, ‘b1’, ‘b2’, and arrows."
    assert found(sentence, "‘a2’, ‘b1’, ‘b2’,") == [("‘a2’, ‘b1’, ‘b2’,", "exact")]


def test_a_repeated_word_is_found_at_its_first_place_and_called_ambiguous():
    (match,) = match_words("The man sees the man.", ["man"])
    assert (match.start, match.ambiguous) == (4, True)


def test_words_repeated_in_another_case_are_ambiguous_and_found_as_they_stand():
    (match,) = match_words("The man next to the man.", ["the man"])
    assert (match.start, match.how, match.ambiguous) == (16, "exact", True)
    matches = match_words("The man next to the man.", ["The man", "the man"])
    assert [(match.start, match.ambiguous) for match in matches] == [(0, False), (16, False)]


def test_words_that_differ_in_punctuation_are_no_rivals():
    (match,) = match_words("A hat beside a hat.", ["hat."])
    assert (match.start, match.ambiguous) == (15, False)


@pytest.mark.parametrize(
    ("sentence", "words", "place"),
    [
        ("वह घोड़े पर है", "घोड", None),  # the word goes on with a dot below and a vowel sign
        ("वह घोड़े पर है", "घोड़े,", "घोड़े"),
        ("A cafe\u0301.", "cafe", None),
        ("A _red_ hat.", "red", "red"),
        ("一个男人骑马。", "男人", "男人"),  # no spaces between words
        ("ผู้ชายขี่ม้า", "ชาย", "ชาย"),
        ("ผู้ชายขี่ม้า", "ม", None),
    ],
)
def test_words_of_every_script_are_found_whole(sentence, words, place):
    assert found(sentence, words)[0][0] == place


def test_a_word_listed_as_often_as_it_occurs_is_found_at_each_place():
    matches = match_words("The man sees the man.", ["man", "man"])
    assert [(match.start, match.ambiguous) for match in matches] == [(4, False), (17, False)]


def test_words_are_looked_for_after_those_listed_before_them():
    matches = match_words("A hat, a red coat, a hat.", ["red", "hat"])
    assert [(match.start, match.ambiguous) for match in matches] == [(9, False), (21, True)]


def test_words_listed_out_of_order_are_found_all_the_same():
    assert found("A red hat and two dogs.", "two", "red") == [("two", "exact"), ("red", "exact")]


def test_a_part_of_other_words_may_be_listed_beside_them():
    assert found("A red hat.", "red hat", "hat") == [("red hat", "exact"), ("hat", "exact")]


def test_a_word_listed_more_often_than_it_occurs_is_unmatched():
    assert found("A red hat.", "hat", "hat") == [("hat", "exact"), (None, None)]


@pytest.mark.parametrize("words", ["red, two", "red; two", "red | two", "red/two", "red\ntwo"])
def test_a_delimited_list_is_taken_apart_where_it_does_not_occur_as_it_stands(words):
    sentence = "A red hat and two dogs."
    assert found(sentence, words) == [("red", "exact"), ("two", "exact")]
    assert all(match.split for match in match_words(sentence, [words]))


def test_of_a_delimited_list_the_parts_that_do_not_occur_are_unmatched():
    assert found("A red hat.", "red, blue") == [("red", "exact"), (None, None)]


def test_words_that_do_not_occur_at_all_are_kept_whole():
    (match,) = match_words("A red hat.", ["blue, green"])
    assert (match.words, match.start) == ("blue, green", None)


@given(sentence=st.text(max_size=30), words=st.lists(st.text(min_size=1, max_size=6), max_size=4))
def test_every_place_lies_in_the_sentence_and_differs_from_the_others(sentence, words):
    places = [(match.start, match.end) for match in match_words(sentence, words) if match.start is not None]
    assert all(0 <= start < end <= len(sentence) for start, end in places)
    assert len(places) == len(set(places))


@given(before=st.text(max_size=10), words=st.text(min_size=1, max_size=10), after=st.text(max_size=10))
def test_words_between_spaces_are_always_found(before, words, after):
    (match, *_) = match_words(f"{before} {words} {after}", [words])
    assert match.start is not None
