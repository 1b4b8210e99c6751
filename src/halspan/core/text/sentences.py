"""Sentence boundaries for a text that has no annotated ones."""

import sentencex


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Return the character ranges of the sentences of a text.

    The rules are sentencex's for English (abbreviations, quotations, ...), which also know the full stops of other
    scripts. A paragraph break ends a sentence; text without any full stop is one sentence.

    Args:
        text: Any text; an empty or blank one has no sentences.

    Returns:
        Half-open character ranges `[start, end)` in order, without the whitespace around each sentence.

    >>> split_sentences("A cat sits. It is red.")
    [(0, 11), (12, 22)]
    """
    sentences = []
    for piece in sentencex.get_sentence_boundaries("en", text):
        sentence = text[piece["start_index"] : piece["end_index"]]
        start = piece["start_index"] + len(sentence) - len(sentence.lstrip())
        end = piece["start_index"] + len(sentence.rstrip())
        if start < end:
            sentences.append((start, end))
    return sentences
