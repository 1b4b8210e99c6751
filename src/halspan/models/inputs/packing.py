"""Captions packed into lines, and lines into passes, by their lengths in tokens."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into bins: the longest first, each into the first bin with room for it.

    Args:
        lengths: Lengths of the items, in tokens.
        capacity: Capacity of a bin, in tokens; a longer item gets a bin of its own.

    Returns:
        The items of each bin, as indexes into `lengths`, in order.
    """
    bins: list[list[int]] = []
    rooms: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        fitting = next((number for number, room in enumerate(rooms) if lengths[item] <= room), len(bins))
        if fitting == len(bins):
            bins.append([])
            rooms.append(capacity)
        bins[fitting].append(item)
        rooms[fitting] -= lengths[item]
    return [sorted(items) for items in bins]


def fill(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Divide lines into passes, in which lines of similar length are padded to the longest of them.

    Args:
        lengths: Lengths of the lines, in tokens.
        capacity: Most tokens of a pass, padding included; a longer line has a pass of its own.

    Returns:
        The lines of each pass, as indexes into `lengths`, in order; the pass with the longest lines first.
    """
    passes: list[list[int]] = []
    longest = 0
    for line in sorted(range(len(lengths)), key=lambda line: -lengths[line]):
        if not passes or longest * (len(passes[-1]) + 1) > capacity:
            passes.append([])
            longest = lengths[line]
        passes[-1].append(line)
    return [sorted(members) for members in passes]
