"""Alignment of characters and tokens by the tokenizer's offset mapping; the only copy of it.

Offsets are half-open character ranges `[start, end)` in the caption's text, one row for each token. They may include
the space before a word, repeat (the bytes of one character split over several tokens), overlap, or be empty. What is
aligned are the characters that are not whitespace, here called ink.

Axes: `token`, `character`, `span`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

# The last whitespace character of Unicode; every one after it is ink.
_LAST_SPACE = 0x3000
_IS_INK = np.array([not chr(code).isspace() for code in range(_LAST_SPACE + 2)])


@runtime_checkable
class Ranged(Protocol):
    """Characters `[start, end)`: a span, a predicted span or a sentence."""

    @property
    def start(self) -> int:
        """First character."""

    @property
    def end(self) -> int:
        """The character after the last one."""


def token_coverage(offsets: Int[ndarray, "token 2"], spans: Sequence[Ranged], text: str) -> Float[ndarray, "token"]:
    """Measure how much of each token the spans cover.

    Args:
        offsets: the tokens' character ranges in `text`.
        spans: in any order; they may overlap, and start or end inside a token.
        text: the caption's text.

    Returns:
        The share of each token's ink that lies in the union of the spans, 0 to 1; 0 for a token without ink.
    """
    ink = _ink(text)
    covered = np.zeros_like(ink)
    for span in spans:
        covered[span.start : span.end] = True
    share: ndarray = _count(ink & covered, offsets) / np.maximum(_count(ink, offsets), 1)
    return share


def tag_tokens(offsets: Int[ndarray, "token 2"], spans: Sequence[Ranged], text: str) -> Bool[ndarray, "token"]:
    """Tag the tokens of which the spans cover at least half of the ink (arguments as for `token_coverage`)."""
    return token_coverage(offsets, spans, text) >= 0.5


def range_of_token(offsets: Int[ndarray, "token 2"], ranges: Sequence[Ranged], text: str) -> Int[ndarray, "token"]:
    """Find the sentence, or the span, that each token belongs to.

    Args:
        offsets: the tokens' character ranges in `text`.
        ranges: sentences or spans, in any order.
        text: the caption's text.

    Returns:
        The index of the range that holds most of the token's ink, the first of equals; -1 where none holds any.
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
    """Join tagged tokens to spans.

    A span runs from ink to ink, over whitespace but over no ink that no tagged token covers.

    Args:
        tags: which tokens are tagged.
        offsets: the tokens' character ranges in `text`.
        text: the caption's text.
        within: sentences, disjoint, that no span may leave or cross; None for the whole text.

    Returns:
        Half-open ranges in order, disjoint, each beginning and ending with ink.
    """
    if not tags.any():
        return []
    zone = np.zeros(len(text), dtype=np.int64) if within is None else _zones(within, len(text))
    zone[~_cover(offsets[tags], len(text))] = -1
    positions = np.flatnonzero(_ink(text))
    zone = zone[positions]
    is_first = np.diff(zone, prepend=-1) != 0
    is_last = np.diff(zone, append=-1) != 0
    starts, ends = positions[is_first & (zone >= 0)], positions[is_last & (zone >= 0)] + 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


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
