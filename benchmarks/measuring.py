"""Measures that hold on a busy machine: CPU seconds of one pinned thread, ways in turn; and counted operations."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUILD = Path(__file__).parents[1] / "build" / "benchmarks"
GIGA = 1e9


@dataclass(frozen=True)
class Spread:
    """Several measures of one thing: their median, and the lowest and highest."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """Return the median."""
        return statistics.median(self.values)

    def show(self, digits: int = 3, scale: float = 1.0) -> str:
        """Return `median (lowest to highest)`, with so many significant digits."""
        low, high = min(self.values) * scale, max(self.values) * scale
        return f"{_round(self.median * scale, digits)} ({_round(low, digits)} to {_round(high, digits)})"


def pin() -> None:
    """Keep this process on one core, and torch on one thread."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


def take_turns(ways: Mapping[str, Callable[[], int]], *, rounds: int) -> dict[str, Spread]:
    """Measure ways of doing something in turns, after a turn to warm up.

    Args:
        ways: By name, a function that does it, and returns how many items it did.
        rounds: Number of turns that count.

    Returns:
        By name, CPU seconds per item of each turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, work in ways.items():
            start = time.process_time()
            n_items = work()
            spent = (time.process_time() - start) / n_items
            say(f"{'warm-up' if turn == 0 else f'round {turn} of {rounds}'}: {name}: {spent * 1000:.1f} ms")
            if turn:
                seconds[name].append(spent)
    return {name: Spread(values) for name, values in seconds.items()}


def ratio(one: Spread, other: Spread) -> Spread:
    """Return how many times as long one way takes as the other, turn by turn."""
    return Spread([a / b for a, b in zip(one.values, other.values, strict=True)])


def count_operations(work: Callable[[], object]) -> int:
    """Count the operations of matrix products, as torch does, with the kernel of `sdpa` that it can look into."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def leave(name: str, results: Mapping[str, Any]) -> Path:
    """Write results as JSON under build/benchmarks."""
    BUILD.mkdir(parents=True, exist_ok=True)
    file = BUILD / f"{name}.json"
    file.write_text(json.dumps(results, indent=1, default=lambda value: list(value.values)), encoding="utf-8")
    say(f"results: {file}")
    return file


def say(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


def _round(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if "e" in text or abs(value) >= 10**digits else text
