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
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from measuring import GIGA, Spread, count_operations, leave, pin, ratio, say
from pytorch_lightning.loggers import CSVLogger
from results import machine, write_section
from small_llava import TAXONOMY, Work, make_captions, make_image, make_spec, save_backbone
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from typing_extensions import override

from halspan.core.captions import Caption
from halspan.core.loss_weights import LossWeights
from halspan.core.losses import Logits, Targets, combine, loss_terms
from halspan.data.images import load_image
from halspan.data.rows import Row, batches
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.heads.comparing import TokenHead
from halspan.models.heads.pooling import SentenceHead
from halspan.models.inputs.batch import Batch
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.plan.floor import count_floor, measure_row
from halspan.models.plan.skeleton import build_skeleton
from halspan.training.encoding import EncodeRows
from halspan.training.fit import fit
from halspan.training.optimizer import build_optimizer
from halspan.training.run_spec import OptimizerSpec, TrainerSpec
from halspan.training.rundir import RunDirectory

HEADING = "## Training, beside Trainer and PEFT"
TRAINER = "`Trainer` and PEFT, one caption a row"
PLAIN = "halspan, one row an image"
READ_LAYER = "halspan, `model.read_layer={}` of {}"
SKIPPED = 2  # first steps, which do not count
SEED = 0
LOSS = LossWeights()
KINDS = {"attention": "scaled_dot_product", "matrix products": "mm", "sums": "aten::add", "products": "aten::mul"}
OPTIMIZER = OptimizerSpec(
    lora_lr=2e-4,
    head_lr=1e-3,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    warmup_fraction=0.1,
    schedule="cosine",
    clip_norm=1.0,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run: what it trains on, how often, and how.

    Attributes:
        folder: Where the backbone is.
        work: Size of images and captions.
        images: Images to train on.
        images_per_step: Images of one optimizer step.
        steps: Optimizer steps.
        read_layer: Layers of the text decoder; None for all.
    """

    folder: Path
    work: Work
    images: int
    images_per_step: int
    steps: int
    read_layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run printed.

    Attributes:
        seconds: CPU seconds of each optimizer step.
        losses: Loss of each.
        peak: Largest resident set, MiB.
        before: Largest resident set before training began, with all weights in memory, MiB.
    """

    seconds: list[float]
    losses: list[float]
    peak: float
    before: float

    @property
    def per_step(self) -> float:
        """Return CPU seconds of a step, without the first ones."""
        return sum(self.seconds[SKIPPED:]) / len(self.seconds[SKIPPED:])


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
            folder=Path(name) / "backbone", work=work, images=4, images_per_step=1, steps=SKIPPED + arguments.steps
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


def make_rows(plan: Plan, folder: Path) -> list[Row]:
    """Write images, and return the rows to train on."""
    rows = []
    for number in range(plan.images):
        file = folder / f"{number}.png"
        make_image(plan.work, number).save(file)
        rows.append(Row(file, tuple(make_captions(plan.work, file.name, number))))
    return rows


def build(plan: Plan) -> tuple[SpanDetector, RowEncoder]:
    """Build the detector with its first weights."""
    torch.manual_seed(SEED)
    detector, encoder = build_detector(make_spec(plan.folder, read_layer=plan.read_layer), TAXONOMY)
    for name, parameter in detector.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)  # at 0, the first steps would not train the other half
    return detector, encoder


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
    clock = Clock(folder)
    before, start = peak_mib(), time.process_time()
    fit(
        detector,
        train=rows,
        val=[Row(rows[0].image, rows[0].captions[:1])],
        encode=EncodeRows(encoder, load_image),
        tokens_per_pass=4096 * plan.images_per_step,
        run=RunDirectory(folder / "run"),
        trainer=trainer_spec(plan),
        optimizer=OPTIMIZER,
        loss=LOSS,
        curves=clock,
        seed=SEED,
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
        save_every_steps=plan.steps,
        log_every_steps=1,
        compile=False,
        profile=False,
    )


class CaptionClassifier(nn.Module):
    """A backbone with adapters from PEFT, and heads on its last states: one caption of one image in each row."""

    def __init__(self, folder: Path) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import LlavaModel

        super().__init__()
        base = LlavaModel.from_pretrained(folder, attn_implementation="sdpa")
        adapters = LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules=r".*language_model.*\.([qkvo]|gate|up|down)_proj"
        )
        self.backbone = get_peft_model(base, adapters)
        hidden = base.config.get_text_config().hidden_size
        self.token_head = TokenHead(hidden, len(TAXONOMY))
        self.sentence_head = SentenceHead(hidden)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor,
        places: Tensor,
        sentence_tokens: Tensor,
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Return the loss; `places` are the row and position of each caption token, and of the state before it."""
        states = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values, use_cache=False
        ).last_hidden_state
        row, place = places
        words = self.backbone.get_input_embeddings()(input_ids[row, place])  # tied to the vocabulary head
        of_tokens = states[row, place]
        token, types = self.token_head(of_tokens, states[row, place - 1], words)
        sentence = self.sentence_head(of_tokens, token, sentence_tokens)
        return {"loss": combine(loss_terms(Logits(token=token, type=types, sentence=sentence), targets, LOSS), LOSS)}


@dataclass(frozen=True)
class Collate:
    """Collator of captions: each is a row with its own image, padded to the longest."""

    encoder: RowEncoder

    def __call__(self, items: Sequence[tuple[Path, Caption]]) -> dict[str, Any]:
        """Return the inputs of a `CaptionClassifier`."""
        encoded = [self.encoder.encode(load_image(image), [caption]) for image, caption in items]
        batch: Batch = self.encoder.collate(encoded)
        return {
            "input_ids": batch.inputs["input_ids"],
            "attention_mask": (batch.segments != -2).long(),  # not padding
            "pixel_values": batch.inputs["pixel_values"],
            "places": torch.stack([batch.token_row, batch.token_position]),
            "sentence_tokens": batch.sentence_tokens,
            "targets": batch.targets,
        }


def train_with_trainer(plan: Plan, folder: Path) -> Outcome:
    """Train with transformers' `Trainer`."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Times(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

    class InOrder(Trainer):  # type: ignore[misc]  # transformers is untyped here
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset or self.train_dataset)

    rows = make_rows(plan, folder)
    model, encoder = same_start(plan)
    times: list[float] = []
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=plan.images_per_step * plan.work.captions,
        max_steps=plan.steps,
        max_grad_norm=OPTIMIZER.clip_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=SEED,
    )
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=in_order(plan, rows, encoder),
        data_collator=Collate(encoder),
        optimizers=optimizer_of(model, plan.steps),
        callbacks=[Times()],
    )
    before, start = peak_mib(), time.process_time()
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return Outcome(seconds=differences([start, *times]), losses=losses, peak=peak_mib(), before=before)


def same_start(plan: Plan) -> tuple[CaptionClassifier, RowEncoder]:
    """Build the other model with the detector's first weights."""
    detector, encoder = build(plan)
    model = CaptionClassifier(plan.folder)
    own = {
        name.replace("base_model.model.model.", "base_model.model.", 1): parameter
        for name, parameter in detector.trainable_state_dict().items()
    }
    result = model.load_state_dict(own, strict=False)
    missing = [name for name in result.missing_keys if "lora_" in name or "_head." in name]
    if missing or result.unexpected_keys:
        raise SystemExit(f"the models differ: {[*missing, *result.unexpected_keys][:3]}")
    return model, encoder


def in_order(plan: Plan, rows: Sequence[Row], encoder: RowEncoder) -> list[tuple[Path, Caption]]:
    """Return the captions in the order in which halspan's steps have them."""
    lengths = EncodeRows(encoder, load_image).measure(rows)
    steps_per_epoch = -(-len(rows) // plan.images_per_step)
    order: list[int] = []
    for epoch in range(-(-plan.steps // steps_per_epoch)):
        for step in batches(lengths, rows_per_batch=plan.images_per_step, seed=SEED, epoch=epoch):
            order += step
    return [(rows[number].image, caption) for number in order for caption in rows[number].captions]


def optimizer_of(model: nn.Module, steps: int) -> Any:
    """Build halspan's optimizer and schedule for another model."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return build_optimizer(
        OPTIMIZER,
        lora=[parameter for name, parameter in trained if name.startswith("backbone.")],
        heads=[parameter for name, parameter in trained if not name.startswith("backbone.")],
        total_steps=steps,
    )


def count_all(plan: Plan) -> dict[str, float]:
    """Count the operations of one step of each way, and those of the floor, per caption."""
    counts = {}
    with tempfile.TemporaryDirectory() as name:
        rows = make_rows(replace(plan, images=plan.images_per_step), Path(name))
        for way, (kind, own) in ways_of(plan).items():
            counts[way] = {"trainer": count_trainer, "halspan": count_halspan}[kind](own, rows)
            say(f"counted: {way}: {counts[way] / GIGA:.1f} GFLOP a caption")
        for floor, own in (("floor", plan), ("floor, features kept", plan)):
            skeleton = build_skeleton(make_spec(own.folder), n_types=len(TAXONOMY))
            _, encoder = build(own)
            sizes = [measure_row(skeleton, encoder.encode(load_image(row.image), row.captions)) for row in rows]
            sizes = sizes if floor == "floor" else [replace(size, tiles=()) for size in sizes]
            counts[floor] = count_floor(skeleton, sizes, is_training=True).total / n_captions(rows)
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


def differences(times: Sequence[float]) -> list[float]:
    """Return the time from each to the next."""
    return [after - before for before, after in pairwise(times)]


def n_captions(rows: Sequence[Row]) -> int:
    """Count the captions of rows."""
    return sum(len(row.captions) for row in rows)


def peak_mib() -> float:
    """Return the largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
