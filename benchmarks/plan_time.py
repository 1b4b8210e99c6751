"""The share of the speed of matrix products that training reaches: `python benchmarks/plan_time.py`.

`plan=true` states the time of training by the fewest operations it takes, at the speed of this machine's matrix
products, and at a share of it that was measured: this one (see `halspan.models.plan.duration`). Both are CPU seconds of
one pinned thread, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from measuring import GIGA, Spread, pin, say
from results import machine, write_section
from small_llava import TAXONOMY, Work, make_spec, save_backbone
from training import run
from training_plan import SKIPPED, Plan, build, make_rows

from halspan.data.images import load_image
from halspan.models.plan.duration import measure_rate
from halspan.models.plan.floor import count_floor, measure_row
from halspan.models.plan.skeleton import build_skeleton

HEADING = "## Training, as a share of matrix products"


def main() -> None:
    """Train and multiply in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs, each beside a measure of matrix products")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of each run, beyond the first two")
    arguments = parser.parse_args()
    pin()
    with tempfile.TemporaryDirectory() as name:
        work = Work()
        about = save_backbone(Path(name) / "backbone", work)
        plan = Plan(
            folder=Path(name) / "backbone",
            work=work,
            images=SKIPPED,
            images_per_step=1,
            steps=SKIPPED + arguments.steps,
        )
        floor = count_step(plan, Path(name))
        reached, rates = [], []
        for turn in range(arguments.rounds):
            rates.append(measure_rate(torch.device("cpu"), torch.float32, clock=time.process_time) / GIGA)
            reached.append(floor / GIGA / run("halspan", plan).per_step)
            say(f"round {turn + 1}: {reached[-1]:.1f} of {rates[-1]:.1f} GFLOP/s")
    shares = Spread([own / rate for own, rate in zip(reached, rates, strict=True)])
    text = (
        f"`python benchmarks/plan_time.py` on {machine()}: {about}, {plan.work.describe()}, one image a step; float32, "
        f"one pinned thread, CPU time: the median of {arguments.rounds} runs (lowest to highest). Training reaches "
        f"{Spread(reached).show()} GFLOP of the floor's a second, and matrix products of 1,024 x 1,024 numbers "
        f"{Spread(rates).show()} GFLOP: a share of {shares.show(2)}. On a GPU: not measured."
    )
    write_section(HEADING, [text])


def count_step(plan: Plan, folder: Path) -> float:
    """Count the fewest operations of a step."""
    skeleton = build_skeleton(make_spec(plan.folder), n_types=len(TAXONOMY))
    _, encoder = build(plan)
    rows = make_rows(plan, folder)[: plan.images_per_step]
    sizes = [measure_row(skeleton, encoder.encode(load_image(row.image), row.captions)) for row in rows]
    return count_floor(skeleton, sizes, is_training=True).total


if __name__ == "__main__":
    main()
