"""Conversion of token probabilities to predicted spans.

Axes: `token`, `type`.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from halspan.core.alignment import Ranged, have_ink, tokens_to_spans
from halspan.core.captions import PredictedSpan
from halspan.core.text.graphemes import find_words

_Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class DecodingParameters:
    """Settings of span decoding, tuned on validation captions and stored with the detector.

    Attributes:
        threshold: Lowest probability at which a token is marked.
        merge_gap: Largest gap, in characters, at which two spans of one sentence become one; at 0, only touching spans
            do.
        min_characters: Shorter spans are dropped, after merging.
        snap_to_word: Whether a span that covers part of a word is widened to the whole word. A word consists of letters
            with their marks, digits, and hyphens and apostrophes inside. Scripts without spaces between words have no
            words in this sense.
    """

    threshold: Annotated[float, Field(gt=0, le=1)]
    merge_gap: NonNegativeInt
    min_characters: PositiveInt
    snap_to_word: bool


def decode(
    *,
    text: str,
    offsets: Int[ndarray, "token 2"],
    p_token: Float[ndarray, "token"],
    p_type: Float[ndarray, "token type"],
    taxonomy: Sequence[str],
    sentences: Sequence[Ranged],
    parameters: DecodingParameters,
) -> tuple[PredictedSpan, ...]:
    """Mark the hallucinated spans of one caption.

    Args:
        text: The caption's text.
        offsets: The tokens' character ranges in it.
        p_token: Probability that each token is hallucinated.
        p_type: Probability of each type, given that the token is hallucinated.
        taxonomy: The names of the types.
        sentences: Scored sentences, in order; no span crosses or leaves them.
        parameters: Settings of the decoding.

    Returns:
        Disjoint spans in order. A span's score is the highest `p_token` of the tokens with ink in it; its type has the
        most probability over them (the sum of `p_token * p_type`), None if the taxonomy is empty.

    >>> import numpy as np
    >>> from halspan.core.captions import Sentence
    >>> settings = DecodingParameters(threshold=0.5, merge_gap=1, min_characters=2, snap_to_word=True)
    >>> decode(
    ...     text="two red cat",
    ...     offsets=np.array([[0, 3], [3, 7], [7, 11]]),
    ...     p_token=np.array([0.1, 0.8, 0.2]),
    ...     p_type=np.ones((3, 1)),
    ...     taxonomy=["Attribute"],
    ...     sentences=[Sentence(0, 11)],
    ...     parameters=settings,
    ... )
    (PredictedSpan(start=4, end=7, type='Attribute', score=0.8),)
    """
    spans = []
    has_ink = have_ink(offsets, text)  # no label teaches the others
    for start, end in _decode_ranges(text, offsets, p_token, sentences, parameters):
        held = has_ink & (offsets[:, 0] < end) & (offsets[:, 1] > start)
        mass = p_token[held] @ p_type[held]
        kind = taxonomy[int(mass.argmax())] if taxonomy else None
        spans.append(PredictedSpan(start, end, kind, float(p_token[held].max())))
    return tuple(spans)


def _decode_ranges(
    text: str,
    offsets: Int[ndarray, "token 2"],
    p_token: Float[ndarray, "token"],
    sentences: Sequence[Ranged],
    parameters: DecodingParameters,
) -> Iterable[_Range]:
    marked = tokens_to_spans(p_token >= parameters.threshold, offsets, text, within=sentences)
    for sentence in sentences if marked else ():
        ranges = [(start, end) for start, end in marked if sentence.start <= start < sentence.end]
        if parameters.snap_to_word:
            ranges = _snap(ranges, text, sentence)
        for start, end in _merge(ranges, parameters.merge_gap):
            if end - start >= parameters.min_characters:
                yield start, end


def _snap(ranges: list[_Range], text: str, sentence: Ranged) -> list[_Range]:
    """Widen each range to the words that it partly covers."""
    words = list(find_words(text, sentence.start, sentence.end)) if ranges else []
    widened = []
    for start, end in ranges:
        touched = [word for word in words if word[0] < end and start < word[1]]
        widened.append((min([start, *(word[0] for word in touched)]), max([end, *(word[1] for word in touched)])))
    return widened


def _merge(ranges: list[_Range], gap: int) -> list[_Range]:
    """Join ranges (in order) that overlap, or have at most `gap` characters between them."""
    merged: list[_Range] = []
    for start, end in ranges:
        if merged and start - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
