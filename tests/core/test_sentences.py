import pytest
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.text.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["A man rides a horse.", "He wears a hat."],
        ["No full stop"],
        ["Mr. Smith pays 3.50 dollars!", "Is it e.g. a bus?", "Yes"],
        ["“Hello there.”", "She said."],
        ["日本の猫。", "犬です。"],
        ["A dog 🐕 runs.", "It is red."],
    ],
)
@pytest.mark.parametrize("gap", [" ", "  ", "\n\n"])
def test_sentences_are_found_without_the_whitespace_around_them(sentences, gap):
    text = f" {gap.join(sentences)}{gap}"
    assert [text[start:end] for start, end in split_sentences(text)] == sentences


@pytest.mark.parametrize("text", ["", " ", "\n\n \t"])
def test_a_blank_text_has_no_sentences(text):
    assert split_sentences(text) == []


def test_a_paragraph_break_ends_a_sentence():
    assert split_sentences("A title\n\nA sentence.") == [(0, 7), (9, 20)]


@given(
    st.lists(st.sampled_from([" A dog.", "!", "\n\n", "🐕", "é", "e\u0301", " Dr. ", "“", "”", "。", "\u3000", "x"]))
)
def test_sentences_of_any_text_are_ordered_trimmed_and_hold_all_its_ink(pieces):
    check_partition("".join(pieces))


@given(st.text())
def test_sentences_of_any_characters_are_ordered_trimmed_and_hold_all_ink(text):
    check_partition(text)


def check_partition(text: str) -> None:
    last_end = 0
    for start, end in split_sentences(text):
        assert not text[last_end:start].strip()
        assert start < end
        assert text[start:end] == text[start:end].strip()
        last_end = end
    assert not text[last_end:].strip()
