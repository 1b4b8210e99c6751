"""Tests of ranges that do not fit the words of their text."""

import pytest

from halspan.data.inspection.range_checks import WordMap

TEXT = "A man rides a horse today. He wears a well-lit hat."


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("orse ", "horse"),  # counted from 1
        (" hors", "horse"),  # a space too early
        ("hors", "horse"),  # the end is the last character
        (" horse", "horse"),
        ("horse ", "horse"),
        ("rse t", "horse"),  # off by two
        ("an r", "man rides"),  # nothing of this length fits
    ],
)
def test_a_range_off_its_words_has_a_better_one(written, meant):
    start = TEXT.index(written)
    words = WordMap(TEXT)
    assert not words.fits(start, start + len(written))
    first, last = words.suggest(start, start + len(written))
    assert TEXT[first:last] == meant


@pytest.mark.parametrize("piece", ["horse", "rides a horse", "today.", "well", "lit", "well-lit hat", ".", "A"])
def test_whole_words_and_what_stands_between_them_fit(piece):
    start = TEXT.index(piece)
    assert WordMap(TEXT).fits(start, start + len(piece))


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("一匹马在跑。", "马"),  # no spaces between words
        ("ม้าวิ่ง", "ม้า"),
        ("남자가 말을 탄다.", "말"),  # a particle follows
        ("the man's hat", "man"),
    ],
)
def test_scripts_and_words_that_may_be_cut_are_not_called_cut(text, piece):
    start = text.index(piece)
    assert WordMap(text).fits(start, start + len(piece))


def test_a_combining_mark_belongs_to_its_word():
    text = "एक हिंदी शब्द"
    start = text.index("ह")
    words = WordMap(text)
    assert words.cuts(start, start + 1)
    assert words.suggest(start, start + 1) == (start, start + len("हिंदी"))


def test_spaces_alone_stay_what_they_are():
    assert WordMap("a  b").suggest(1, 3) == (1, 3)
