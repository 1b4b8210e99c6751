"""Pairs of tokens in which one sees the other, counted from lengths: the attention that no layout can avoid."""

from collections import Counter
from collections.abc import Iterable

from halspan.models.inputs.context import FULL

CHUNKED = "chunked_attention"


def count_causal(length: int, kind: str = FULL, reach: int | None = None) -> int:
    """Count the pairs of a text in which each token sees itself and those before it.

    Args:
        length: Number of tokens.
        kind: Kind of the layer, as in transformers' `layer_types`.
        reach: How many tokens the layer sees (sliding window), or the length of a chunk; None for all.
    """
    if reach is None or length <= reach:
        return length * (length + 1) // 2
    if kind == CHUNKED:
        chunks, rest = divmod(length, reach)
        return chunks * count_causal(reach) + count_causal(rest)
    return count_causal(reach) + (length - reach) * reach


def count_later(places: Iterable[int], kind: str = FULL, reach: int | None = None) -> int:
    """Count the pairs in a block of tokens in which a token sees a later one.

    Args:
        places: Places of the tokens, all of which see each other, in their text.
        kind: As for `count_causal`; a sliding window ends behind a token only.
        reach: As for `count_causal`.
    """
    chunk = reach if kind == CHUNKED else None
    sizes = Counter(0 if chunk is None else place // chunk for place in places).values()
    return sum(size * (size - 1) // 2 for size in sizes)
