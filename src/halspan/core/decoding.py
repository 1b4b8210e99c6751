"""From token probabilities to predicted spans.

Axes: `token`, `type`.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from halspan.core.alignment import Ranged, tokens_to_spans
from halspan.core.captions import PredictedSpan
from halspan.core.graphemes import find_words

_Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class DecodingParameters:
    """How probabilities become spans; tuned on validation captions and stored with the detector.

    Attributes:
        threshold: a token is marked from this probability on.
        merge_gap: spans of one sentence with at most this many characters between them become one; at 0, only those
            that touch.
        min_characters: shorter spans are dropped, after joining.
        snap_to_word: a span that covers a part of a word is widened to the whole word. A word is letters with their
            marks and digits, with hyphens and apostrophes inside; scripts without spaces between words have none.
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
        text: the caption's text.
        offsets: the tokens' character ranges in it.
        p_token: probability that a token is hallucinated.
        p_type: probability of each type, given that the token is hallucinated.
        taxonomy: the names of the types.
        sentences: those that were scored, in order; no span crosses or leaves them.
        parameters: how.

    Returns:
        Disjoint spans in order. A span's score is the highest `p_token` of its tokens; its type has the most
        probability over its tokens (the sum of `p_token * p_type`), None if the taxonomy is empty.
    """
    spans = []
    for start, end in _decode_ranges(text, offsets, p_token, sentences, parameters):
        held = (offsets[:, 0] < end) & (offsets[:, 1] > start)
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
    """Widen each range to the words that it covers in part."""
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
