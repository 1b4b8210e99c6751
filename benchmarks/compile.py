"""Training steps with and without `trainer.compile` on this machine: `python benchmarks/compile.py`.

Both ways take the same steps from the same weights on the shapes backbone, one after the other in rounds, on one
thread. A step is a pass forward and back over 16 rows, in float32, without optimizer and images. Seconds are of this
process's CPU time, which other programs on the machine change less than the clock's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from results import machine, write_section
from run import build, encode, lay_out

if TYPE_CHECKING:
    from halspan.models.detector import SpanDetector
    from halspan.models.inputs.batch import Batch

STEPS = 30
ROWS = 16


def main() -> None:
    """Measure both ways and write the section."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    detector, encoder, captions = build()
    rows = lay_out(captions, 8, split=False)
    batches = [
        encode(encoder, [rows[(step + n) % len(rows)] for n in range(ROWS)], targets=True) for step in range(STEPS)
    ]
    plain, losses = take_steps(detector, batches, nullcontext)
    compiled_steps, same = take_steps(detector, batches, lambda: compiled_layers(detector))
    difference = max(abs(a - b) / abs(b) for a, b in zip(same, losses, strict=True))
    write_section("## Compiled layers", [*describe(difference), "", *table(plain, compiled_steps)])


def compiled_layers(detector: SpanDetector) -> AbstractContextManager[None]:
    """Compile the layers of the decoder as a run does."""
    from halspan.models.compiling import compiled

    return compiled(detector.decoder_layers)


def take_steps(
    detector: SpanDetector, batches: Sequence[Batch], way: Callable[[], AbstractContextManager[None]]
) -> tuple[list[float], list[float]]:
    """Return the CPU seconds and the loss of each step."""
    from halspan.core.loss_weights import LossWeights
    from halspan.core.losses import combine, loss_terms

    weights, seconds, losses = LossWeights(), [], []
    with way():
        for batch in batches:
            start = time.process_time()
            detector.zero_grad()
            if batch.targets is None:
                raise ValueError("rows were encoded without targets")
            loss = combine(loss_terms(detector(batch), batch.targets, weights), weights)
            loss.backward()  # type: ignore[no-untyped-call]
            seconds.append(time.process_time() - start)
            losses.append(float(loss))
    return seconds, losses


def describe(difference: float) -> list[str]:
    """Say what was measured."""
    return [
        f"`python benchmarks/compile.py` on {machine()}, one thread: {STEPS} steps of {ROWS} rows of the shapes "
        "backbone, forward and back, in float32. Seconds are CPU time of the process; the compiler's own processes are "
        f"not in them. The first {STEPS // 3} steps compile. Largest relative difference of a step's loss: "
        f"{difference:.0e}."
    ]


def table(plain: Sequence[float], compiled_steps: Sequence[float]) -> list[str]:
    """Return the steps while layers are compiled, and those after."""
    first = STEPS // 3
    lines = [f"| way | first {first} steps, s | a later step, median, s | range, s |", "|---|---|---|---|"]
    for name, steps in (("`trainer.compile=false`", plain), ("`trainer.compile=true`", compiled_steps)):
        later = steps[first:]
        lines.append(
            f"| {name} | {sum(steps[:first]):.1f} | {statistics.median(later):.3f} | "
            f"{min(later):.3f} to {max(later):.3f} |"
        )
    return lines


if __name__ == "__main__":
    main()
