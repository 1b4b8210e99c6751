"""Alignment of characters and tokens by the tokenizer's offset mapping; no other module implements it.

Offsets are half-open character ranges `[start, end)` in the caption's text, one row for each token. They may include
the space before a word, repeat (the bytes of one character split over several tokens), overlap, or be empty. What is
aligned are the characters that are not whitespace, here called ink. `fit_offsets` makes of a tokenizer's offsets those
that everything else works with.

Axes: `token`, `character`, `span`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from halspan.core.text.graphemes import cluster_edges

# The last whitespace character of Unicode; every one after it is ink.
_LAST_SPACE = 0x3000
_IS_INK = np.array([not chr(code).isspace() for code in range(_LAST_SPACE + 2)])


@runtime_checkable
class Ranged(Protocol):
    """Characters `[start, end)`: a span, a predicted span or a sentence."""

    @property
    def start(self) -> int:
        """Return the first character."""

    @property
    def end(self) -> int:
        """Return the character after the last one."""


def fit_offsets(offsets: Int[ndarray, "token 2"], text: str, sentences: Sequence[Ranged]) -> Int[ndarray, "token 2"]:
    """Fit a tokenizer's offsets to the text, so that tags on tokens can express every span.

    A tokenizer that normalizes text leaves characters out: for `e` and a combining accent, one that composes them gives
    the offsets of the `e` alone. Others cut between the two, or join the end of a sentence with the next sentence.

    Args:
        offsets: The tokenizer's character ranges, in order, for the whole text.
        text: The caption's text.
        sentences: Its sentences, in order and disjoint.

    Returns:
        New ranges of the same tokens. Each holds whole grapheme clusters, and ink of at most one sentence. Ink that the
        tokenizer left out goes to the token before it, else to the token after it, unless whitespace or the end of a
        sentence is between them.
    """
    edges = _edges(text, sentences)
    fitted = _round_to(edges, offsets, len(text))
    fitted = _keep_to_sentence(fitted, sentences, text)
    return _take_in_ink(fitted, sentences, text)


def have_ink(offsets: Int[ndarray, "token 2"], text: str) -> Bool[ndarray, "token"]:
    """Return which tokens hold a character that is not whitespace.

    >>> have_ink(np.array([[0, 3], [3, 4]]), "two cats").tolist()
    [True, False]
    """
    return _count(_ink(text), offsets) > 0


def token_coverage(offsets: Int[ndarray, "token 2"], spans: Sequence[Ranged], text: str) -> Float[ndarray, "token"]:
    """Return the share of each token that the spans cover.

    Args:
        offsets: The tokens' character ranges in `text`.
        spans: In any order; they may overlap, and start or end inside a token.
        text: The caption's text.

    Returns:
        The share of each token's ink that lies in the union of the spans, 0 to 1; 0 for a token without ink.

    >>> from halspan.core.captions import Span
    >>> token_coverage(np.array([[0, 3], [3, 7]]), [Span(2, 7)], "two red").round(2).tolist()
    [0.33, 1.0]
    """
    ink = _ink(text)
    covered = np.zeros_like(ink)
    for span in spans:
        covered[span.start : span.end] = True
    share: ndarray = _count(ink & covered, offsets) / np.maximum(_count(ink, offsets), 1)
    return share


def tag_tokens(offsets: Int[ndarray, "token 2"], spans: Sequence[Ranged], text: str) -> Bool[ndarray, "token"]:
    """Tag the tokens of which the spans cover at least half of the ink (arguments as for `token_coverage`).

    >>> from halspan.core.captions import Span
    >>> offsets = np.array([[0, 3], [3, 7], [7, 11]])
    >>> tag_tokens(offsets, [Span(start=4, end=6)], "two red cat").tolist()
    [False, True, False]
    """
    return token_coverage(offsets, spans, text) >= 0.5


def range_of_token(offsets: Int[ndarray, "token 2"], ranges: Sequence[Ranged], text: str) -> Int[ndarray, "token"]:
    """Return the index of the sentence, or the span, that each token belongs to.

    Args:
        offsets: The tokens' character ranges in `text`.
        ranges: Sentences or spans, in any order.
        text: The caption's text.

    Returns:
        The index of the range that holds most of the token's ink, the first of equals; -1 where none holds any.

    >>> from halspan.core.captions import Sentence
    >>> offsets, sentences = np.array([[0, 3], [3, 7], [7, 11]]), [Sentence(0, 3), Sentence(4, 11)]
    >>> range_of_token(offsets, sentences, "Go! red cat").tolist()
    [0, 1, 1]
    """
    if not ranges:
        return np.full(len(offsets), -1)
    starts = np.array([item.start for item in ranges])
    ends = np.array([item.end for item in ranges])
    shared = np.clip(offsets[:, :, None], starts, ends)  # (token, 2, range): each token's part of each range
    n_ink = np.diff(_count_before(_ink(text))[shared], axis=1)[:, 0]
    return np.where(n_ink.max(axis=1) > 0, n_ink.argmax(axis=1), -1)


def tokens_to_spans(
    tags: Bool[ndarray, "token"],
    offsets: Int[ndarray, "token 2"],
    text: str,
    *,
    within: Sequence[Ranged] | None = None,
) -> list[tuple[int, int]]:
    """Join tagged tokens into spans.

    A span begins and ends with ink. It may include whitespace, but no ink outside tagged tokens.

    Args:
        tags: Whether each token is tagged.
        offsets: The tokens' character ranges in `text`.
        text: The caption's text.
        within: Sentences, disjoint, that no span may leave or cross; None for the whole text.

    Returns:
        Half-open ranges in order, disjoint, each beginning and ending with ink.

    >>> offsets = np.array([[0, 3], [3, 7], [7, 11]])
    >>> tokens_to_spans(np.array([True, True, False]), offsets, "two red cat")
    [(0, 7)]
    """
    if not tags.any():
        return []
    zone = np.zeros(len(text), dtype=np.int64) if within is None else _zones(within, len(text))
    zone[~_cover(offsets[tags], len(text))] = -1
    ink = np.flatnonzero(_ink(text))
    return [(int(ink[first]), int(ink[last - 1]) + 1) for first, last in _runs(zone[ink])]


def _edges(text: str, sentences: Sequence[Ranged]) -> Int[ndarray, "edge"]:
    """Return the positions where tokens may begin and end; the end of a sentence counts even inside a cluster."""
    of_sentences = np.array([edge for item in sentences for edge in (item.start, item.end)], dtype=np.int64)
    return np.union1d(cluster_edges(text), of_sentences)


def _round_to(
    edges: Int[ndarray, "edge"], offsets: Int[ndarray, "token 2"], n_characters: int
) -> Int[ndarray, "token 2"]:
    """Widen tokens to whole clusters; a token that ends after a shared cluster gives up its part of it."""
    start, end = offsets.T
    before = edges[np.searchsorted(edges, start, side="right") - 1]
    behind = edges[np.searchsorted(edges, start, side="left")]
    is_held = np.append(_cover(offsets, n_characters), False)[before]  # another token covers the start
    fitted = np.stack(
        [np.where((end > behind) & is_held, behind, before), edges[np.searchsorted(edges, end, side="left")]], axis=1
    )
    return np.where((start < end)[:, None], fitted, offsets)


def _keep_to_sentence(
    offsets: Int[ndarray, "token 2"], sentences: Sequence[Ranged], text: str
) -> Int[ndarray, "token 2"]:
    """Cut off the parts of tokens that lie in the sentence before or after their own."""
    sentence = range_of_token(offsets, sentences, text)
    ends = np.array([0, *(item.end for item in sentences[:-1]), 0])
    starts = np.array([*(item.start for item in sentences[1:]), len(text), len(text)])
    kept: ndarray = np.clip(offsets, ends[sentence, None], starts[sentence, None])  # -1 (no sentence) selects the last
    return kept


def _take_in_ink(offsets: Int[ndarray, "token 2"], sentences: Sequence[Ranged], text: str) -> Int[ndarray, "token 2"]:
    """Widen tokens over adjacent ink of their own sentence that no token covers."""
    ink, zone = _ink(text), _zones(sentences, len(text))
    is_held = _cover(offsets, len(text)) & ink
    starts, ends = np.where(offsets[:, :1] < offsets[:, 1:], offsets, -1).T  # an empty token stays empty
    widened = offsets.copy()
    for first, last in _runs(np.where(ink & ~is_held, zone + 1, -1)):
        if first > 0 and is_held[first - 1] and zone[first - 1] == zone[first]:
            widened[ends == first, 1] = last
        elif last < len(text) and is_held[last] and zone[last] == zone[first]:
            widened[starts == last, 0] = first
    return widened


def _runs(zone: Int[ndarray, "*any"]) -> list[tuple[int, int]]:
    """Return the longest half-open ranges of equal numbers; places with -1 are left out."""
    edges = np.flatnonzero(np.diff(zone, prepend=-1, append=-1))
    return [(first, last) for first, last in pairwise(edges.tolist()) if zone[first] >= 0]


def _ink(text: str) -> Bool[ndarray, "character"]:
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    return _IS_INK[np.minimum(codes, _LAST_SPACE + 1)]


def _count_before(marked: Bool[ndarray, "character"]) -> Int[ndarray, "character+1"]:
    before = np.zeros(len(marked) + 1, dtype=np.int64)
    np.cumsum(marked, out=before[1:])
    return before


def _count(marked: Bool[ndarray, "character"], offsets: Int[ndarray, "token 2"]) -> Int[ndarray, "token"]:
    before = _count_before(marked)
    count: ndarray = before[offsets[:, 1]] - before[offsets[:, 0]]
    return count


def _cover(offsets: Int[ndarray, "token 2"], n_characters: int) -> Bool[ndarray, "character"]:
    change = np.zeros(n_characters + 1, dtype=np.int64)
    np.add.at(change, offsets[:, 0], 1)
    np.subtract.at(change, offsets[:, 1], 1)
    covered: ndarray = np.cumsum(change[:-1]) > 0
    return covered


def _zones(ranges: Sequence[Ranged], n_characters: int) -> Int[ndarray, "character"]:
    zones = np.full(n_characters, -1)
    for index, item in enumerate(ranges):
        zones[item.start : item.end] = index
    return zones
