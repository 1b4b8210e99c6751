"""Training beside transformers' `Trainer` with PEFT: `python benchmarks/training.py` (its part of RESULTS.md).

Both train the same adapters and heads, from the same weights, on the same captions in the same order, with halspan's
loss, AdamW and schedule, in float32 and without dropout. `Trainer` reads one caption a row, as its documentation has it
for token classification; halspan reads all captions of an image in one row. Each run is a process of its own; runs take
turns. Times are CPU seconds of its one pinned thread, peak memory is its largest resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import GIGA, Spread, count_operations, leave, pin, ratio, say
from plain_trainer import Collate, same_start, train_with_trainer
from pytorch_lightning.loggers import CSVLogger
from results import machine, write_section
from small_llava import TAXONOMY, Work, make_spec, save_backbone
from training_plan import (
    LOSS,
    OPTIMIZER,
    SEED,
    SKIPPED,
    Outcome,
    Plan,
    build,
    differences,
    make_rows,
    n_captions,
    peak_mib,
)
from typing_extensions import override

from halspan.core.losses import Targets, combine, loss_terms
from halspan.data.images import load_image
from halspan.data.rows import Row
from halspan.models.inputs.batch import Batch
from halspan.models.kept.keeping import open_keeper
from halspan.models.kept.store import Store
from halspan.models.plan.floor import count_floor, measure_row
from halspan.models.plan.skeleton import build_skeleton
from halspan.training.encoding import EncodeRows
from halspan.training.fit import fit
from halspan.training.run_spec import TrainerSpec
from halspan.training.rundir import RunDirectory

HEADING = "## Training, beside Trainer and PEFT"
TRAINER = "`Trainer` and PEFT, one caption a row"
PLAIN = "halspan, one row an image"
KEPT = "halspan, `trainer.keep_images=true`, later epochs"
READ_LAYER = "halspan, `model.read_layer={}` of {}"
KINDS = {"attention": "scaled_dot_product", "matrix products": "mm", "sums": "aten::add", "products": "aten::mul"}


def main() -> None:
    """Measure everything, or, in a child process, one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of each run, beyond the first two")
    parser.add_argument("--curve-steps", type=int, default=50, help="optimizer steps of the loss curves")
    parser.add_argument("--image-tokens", type=int, default=Work.image_tokens, help="a square number")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        run_child(json.loads(arguments.child))
        return
    with tempfile.TemporaryDirectory() as name:
        work = Work(image_tokens=arguments.image_tokens)
        about = save_backbone(Path(name) / "backbone", work)
        plan = Plan(
            folder=Path(name) / "backbone",
            work=work,
            images=SKIPPED,
            images_per_step=1,
            steps=SKIPPED + arguments.steps,
        )
        outcomes = run_ways(plan, rounds=arguments.rounds)
        operations = count_all(plan)
        shares = profile_step(plan)
        curves = compare_curves(Path(name) / "curves", steps=arguments.curve_steps)
    leave("training", {"outcomes": {n: [vars(o) for o in of] for n, of in outcomes.items()}, "curves": curves})
    lines = [introduce(about, plan, arguments.rounds), "", *table(plan, outcomes, operations), ""]
    write_section(HEADING, [*lines, tell_profile(shares), "", tell(curves)])


def ways_of(plan: Plan) -> dict[str, tuple[str, Plan]]:
    """Return the ways by name: the kind of run, and its plan."""
    n_layers = 3
    lower = n_layers * 2 // 3
    return {
        TRAINER: ("trainer", plan),
        PLAIN: ("halspan", plan),
        KEPT: ("halspan", replace(plan, keeps_images=True)),
        READ_LAYER.format(lower, n_layers): ("halspan", replace(plan, read_layer=lower)),
    }


def run_ways(plan: Plan, *, rounds: int) -> dict[str, list[Outcome]]:
    """Run all ways in turns."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in ways_of(plan)}
    for turn in range(rounds):
        for name, (kind, own) in ways_of(plan).items():
            outcomes[name].append(run(kind, own))
            last = outcomes[name][-1]
            say(f"round {turn + 1} of {rounds}: {name}: {last.per_step:.2f} s a step, {last.peak:.0f} MiB")
    return outcomes


def run(kind: str, plan: Plan) -> Outcome:
    """Train in a process of its own."""
    child = {"kind": kind, **vars(plan), "folder": str(plan.folder), "work": vars(plan.work)}
    command = [sys.executable, __file__, "--child", json.dumps(child)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def run_child(child: dict[str, Any]) -> None:
    """Train one way, and print the outcome."""
    pin()
    kind = child.pop("kind")
    plan = Plan(**(child | {"folder": Path(child["folder"]), "work": Work(**child["work"])}))
    with tempfile.TemporaryDirectory() as name:
        outcome = {"trainer": train_with_trainer, "halspan": train_with_halspan}[kind](plan, Path(name))
    print(json.dumps(vars(outcome)))


class Clock(CSVLogger):
    """A logger of curves that notes the CPU time at which each loss came."""

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder)
        self.times: list[float] = []
        self.losses: list[float] = []

    @override
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if "train/loss" in metrics:
            self.times.append(time.process_time())
            self.losses.append(float(metrics["train/loss"]))


def train_with_halspan(plan: Plan, folder: Path) -> Outcome:
    """Train as `train.py` does."""
    rows = make_rows(plan, folder)
    detector, encoder = build(plan)
    spec = make_spec(plan.folder, read_layer=plan.read_layer)
    store = Store(folder / "kept", gib=1)
    keeper = (
        open_keeper(detector, encoder, spec, store=store, is_on=True, autocast=None, device="cpu")
        if plan.keeps_images
        else None
    )
    clock = Clock(folder)
    before, start = peak_mib(), time.process_time()
    fit(
        detector,
        train=rows,
        val=[Row(rows[0].image, rows[0].captions[:1])],
        encode=EncodeRows(encoder, load_image, None if keeper is None else keeper.lookup),
        tokens_per_pass=4096 * plan.images_per_step,
        run=RunDirectory(folder / "run"),
        trainer=trainer_spec(plan),
        optimizer=OPTIMIZER,
        loss=LOSS,
        curves=clock,
        seed=SEED,
        keeper=keeper,
    )
    return Outcome(seconds=differences([start, *clock.times]), losses=clock.losses, peak=peak_mib(), before=before)


def trainer_spec(plan: Plan) -> TrainerSpec:
    """Return the settings of halspan's run."""
    return TrainerSpec(
        accelerator="cpu",
        devices=1,
        strategy="auto",
        precision="32-true",
        threads=1,
        workers=0,
        rows_per_batch=plan.images_per_step,
        tokens_per_pass="auto",
        captions_per_row=plan.work.captions,
        max_steps=plan.steps,
        max_epochs=None,
        val_every_steps=plan.steps,
        patience=None,
        compile=False,
        profile=False,
        save_every_steps=plan.steps,
        log_every_steps=1,
    )


def count_all(plan: Plan) -> dict[str, float]:
    """Count the operations of one step of each way, and those of the floor, per caption."""
    counts = {}
    with tempfile.TemporaryDirectory() as name:
        rows = make_rows(replace(plan, images=plan.images_per_step), Path(name))
        for way, (kind, own) in ways_of(plan).items():
            if own.keeps_images:
                continue
            counts[way] = {"trainer": count_trainer, "halspan": count_halspan}[kind](own, rows)
            say(f"counted: {way}: {counts[way] / GIGA:.1f} GFLOP a caption")
        for floor, own in (("floor", plan), ("floor, features kept", plan)):
            skeleton = build_skeleton(make_spec(own.folder), n_types=len(TAXONOMY))
            _, encoder = build(own)
            sizes = [measure_row(skeleton, encoder.encode(load_image(row.image), row.captions)) for row in rows]
            sizes = sizes if floor == "floor" else [replace(size, tiles=()) for size in sizes]
            counts[floor] = count_floor(skeleton, sizes, is_training=True).total / n_captions(rows)
        counts[KEPT] = counts[PLAIN] - counts["floor"] + counts["floor, features kept"]  # all but the images
    return counts


def count_halspan(plan: Plan, rows: Sequence[Row]) -> float:
    """Count one step of halspan."""
    detector, encoder = build(plan)
    passes = EncodeRows(encoder, load_image)(rows, tokens_per_pass=4096 * plan.images_per_step)

    def work() -> None:
        for batch in passes:
            combine(loss_terms(detector(batch), targets_of(batch), LOSS), LOSS).backward()  # type: ignore[no-untyped-call]

    return count_operations(work) / n_captions(rows)


def count_trainer(plan: Plan, rows: Sequence[Row]) -> float:
    """Count one step of the other model."""
    model, encoder = same_start(plan)
    inputs = Collate(encoder)([(row.image, caption) for row in rows for caption in row.captions])

    def work() -> None:
        model(**inputs)["loss"].backward()

    return count_operations(work) / n_captions(rows)


def profile_step(plan: Plan) -> list[tuple[str, float]]:
    """Return the shares of kinds of operations in the CPU time of one pass of halspan, forward and back."""
    from torch.profiler import ProfilerActivity, profile

    with tempfile.TemporaryDirectory() as name:
        rows = make_rows(replace(plan, images=plan.images_per_step), Path(name))
        detector, encoder = build(plan)
        passes = EncodeRows(encoder, load_image)(rows, tokens_per_pass=4096 * plan.images_per_step)

    def work() -> None:
        for batch in passes:
            combine(loss_terms(detector(batch), targets_of(batch), LOSS), LOSS).backward()  # type: ignore[no-untyped-call]

    work()
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        work()
    seconds: dict[str, float] = {}
    for of in measured.key_averages():
        kind = next((kind for kind, part in KINDS.items() if part in of.key), "all else")
        seconds[kind] = seconds.get(kind, 0.0) + of.self_cpu_time_total
    total = sum(seconds.values())
    return sorted(((kind, spent / total) for kind, spent in seconds.items()), key=lambda item: -item[1])


def targets_of(batch: Batch) -> Targets:
    """Return the targets that a batch was encoded with."""
    if batch.targets is None:
        raise SystemExit("a batch without targets")
    return batch.targets


def compare_curves(folder: Path, *, steps: int) -> dict[str, Any]:
    """Train both on short captions of small images, and compare their losses step by step."""
    work = Work(image_tokens=64, captions=4, sentences=3, words=12)
    save_backbone(folder, work)
    plan = Plan(folder=folder, work=work, images=24, images_per_step=2, steps=steps)
    ours, theirs = run("halspan", plan).losses, run("trainer", plan).losses
    differing = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
    return {"halspan": ours, "trainer": theirs, "largest": max(differing)}


def introduce(about: str, plan: Plan, rounds: int) -> str:
    """Say what was measured, and where."""
    return (
        f"`python benchmarks/training.py` on {machine()}: {about}, {plan.work.describe()}, "
        f"{plan.images_per_step * plan.work.captions} captions a step; adapters of rank 16 on the text decoder; "
        f"float32, one pinned thread. CPU time: the median of {rounds} runs (lowest to highest). Peak memory is that "
        "of the process, and beyond what it had when training began."
    )


def table(plan: Plan, outcomes: Mapping[str, Sequence[Outcome]], operations: Mapping[str, float]) -> list[str]:
    """Return the table of the section."""
    lines = [
        "| way | captions per CPU second | times the first | GFLOP per caption | of the floor | peak memory, MiB "
        "| in training |",
        "|---|---|---|---|---|---|---|",
    ]
    captions = plan.images_per_step * plan.work.captions
    first = Spread([outcome.per_step for outcome in outcomes[TRAINER]])
    for name, of in outcomes.items():
        spent = Spread([outcome.per_step for outcome in of])
        speed = Spread([captions / seconds for seconds in spent.values])
        peak, beyond = max(outcome.peak for outcome in of), max(outcome.peak - outcome.before for outcome in of)
        lines.append(
            f"| {name} | {speed.show()} | {ratio(first, spent).show()} | {operations[name] / GIGA:.2f} | "
            f"{operations[name] / operations['floor']:.2f} | {peak:,.0f} | {beyond:,.0f} |"
        )
    for name in ("floor", "floor, features kept"):
        share = operations[name] / operations["floor"]
        lines.append(f"| the {name} | | | {operations[name] / GIGA:.2f} | {share:.2f} | | |")
    return lines


def tell_profile(shares: Sequence[tuple[str, float]]) -> str:
    """Say where the time of a pass goes."""
    listed = ", ".join(f"{kind} {share:.0%}" for kind, share in shares)
    return f"CPU time of one pass of halspan, forward and back, by kinds of operations: {listed}."


def tell(curves: Mapping[str, Any]) -> str:
    """Say how far the loss curves are apart."""
    ours = curves["halspan"]
    return (
        f"Loss over {len(ours)} steps of 8 short captions (64 image tokens), in the same order from the same weights: "
        f"from {ours[0]:.3f} to {ours[-1]:.3f}; the largest relative difference between `Trainer` and halspan in one "
        f"step is {curves['largest']:.1e}."
    )


if __name__ == "__main__":
    main()
