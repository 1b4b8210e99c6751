"""`trainer.profile`: where the time of an optimizer step goes, measured by torch.profiler over a few steps."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from halspan.core.files import write_json
from halspan.models.detector import SpanDetector
from halspan.models.inputs.batch import Batch
from halspan.models.plan.floor import Operations
from halspan.models.private.torch import is_profiled
from halspan.training.datamodule import RowData
from halspan.training.ends import is_memory_short
from halspan.training.rundir import RunDirectory

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Optimizer steps before the first that is measured."""
STEPS = 5
"""Most optimizer steps that are measured."""

_MARK = "halspan/"
FORWARD = "projector, embeddings and masks"  # what is left of the forward pass without the parts inside it
_VALIDATION = "validation"
_REST = "waiting for workers, and all else"
PARTS = (
    "reading images",
    "encoding",
    "vision tower",
    FORWARD,
    "decoder",
    "heads and loss",
    "backward pass",
    "exchange between devices",
    "optimizer",
    _REST,
)
"""Parts of a step, in order."""
COUNTED = {
    "vision tower and projector": ("vision tower", FORWARD),
    "decoder": ("decoder",),
    "heads": ("heads and loss",),
    "backward pass": ("backward pass",),
}
"""What operations are counted of, with the parts of a step that they are done in."""


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Count the time of a block as a part of the step, without the parts inside it.

    A GPU works after its orders were given, so a profiled block waits for it. Without a profiler nothing waits.

    Args:
        name: One of `PARTS`.
    """
    with record_function(_MARK + name):
        yield
        if is_profiled() and _uses_gpu():
            torch.cuda.synchronize()


def _uses_gpu() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch's


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A stretch of time.

    Attributes:
        name: Part that it belongs to.
        start: Start in microseconds.
        end: End in microseconds.
    """

    name: str
    start: float
    end: float


def add_up(ranges: Sequence[Range]) -> dict[str, float]:
    """Return the seconds of each part, without the parts inside it; what is inside a validation counts as validation.

    Args:
        ranges: Ranges of one thread, each of which lies inside another or beside it.
    """
    seconds: dict[str, float] = {}
    outer: list[Range] = []
    for each in sorted(ranges, key=lambda each: (each.start, -each.end)):
        while outer and outer[-1].end <= each.start:
            outer.pop()
        if outer and outer[0].name == _VALIDATION:
            continue
        length = (each.end - each.start) / 1e6
        seconds[each.name] = seconds.get(each.name, 0.0) + length
        if outer:
            seconds[outer[-1].name] -= length
        outer.append(each)
    return seconds


class Profile(pl.Callback):
    """Callback that measures a few steps after the first ones, and writes `profile.json` and a trace.

    Args:
        run: Folder of the run.
        detector: Detector that is trained.
        rows: Rows that it is trained on.
    """

    def __init__(self, run: RunDirectory, detector: SpanDetector, rows: RowData) -> None:
        self._run = run
        self._detector = detector
        self._rows = rows
        self._batches: list[Sequence[Batch]] = []
        self._first = 0
        self._began = 0.0
        self._profiler: profile | None = None
        self._hooks: list[Any] = []
        self._validation = ExitStack()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the first step to measure; a short run has less to warm up."""
        self._first = trainer.global_step + int(max(1, min(WARM_UP, trainer.num_training_batches - 1)))

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begin after the last step that warms up, end after the last step that is measured."""
        if not trainer.is_global_zero:
            return
        if trainer.global_step == self._first:
            self._begin()
        elif self._profiler is not None:
            self._batches.append(batch)
            if len(self._batches) == STEPS:
                self._end(pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End where the run has fewer steps."""
        if self._profiler is not None:
            self._end(pl_module)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out a validation between two steps."""
        if self._profiler is not None:
            self._validation.enter_context(timed(_VALIDATION))

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure again."""
        self._validation.close()

    def _begin(self) -> None:
        self._hooks = _watch_parts(self._detector, timed)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if _uses_gpu() else [])]
        self._profiler = profile(activities=activities)
        self._profiler.start()
        self._began = time.perf_counter()

    def _end(self, module: Any) -> None:
        n_steps = len(self._batches)
        seconds = time.perf_counter() - self._began
        profiler, self._profiler = self._profiler, None
        for hook in self._hooks:
            hook.remove()
        if profiler is None or n_steps < 1:
            logger.warning("trainer.profile: the run has too few steps to measure one after the first; ask for more")
            return
        profiler.stop()
        profiler.export_chrome_trace(str(self._run.profile_trace))
        record = to_record(add_up(_ranges(profiler)), seconds=seconds, n_steps=n_steps, first=self._first + 1)
        write_json(self._run.profile, record | {"operations": self._count(module, record["parts"])})
        self._batches = []

    def _count(self, module: Any, seconds: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return the operations of a measured step by parts, as a mean: those of the floor, and those that it took.

        The passes run once more to be counted, after the time is measured, because counting slows small operations.
        """
        floor = Operations()
        for step, batch in enumerate(self._batches, start=self._first):
            kept = {caption for each in batch if each.features for caption in each.captions}
            floor += self._rows.count_floor(step, kept=kept)
        try:
            counted = [count_operations(self._detector, partial(module.repeat, batch)) for batch in self._batches]
        except (MemoryError, RuntimeError) as error:
            if not is_memory_short(error):
                raise
            logger.warning("trainer.profile: memory is too short to count operations; lower trainer.tokens_per_pass")
            return []
        least = (floor.images, floor.matrices + floor.attention, floor.heads, floor.backward)
        return [
            {
                "part": name,
                "seconds": sum(seconds.get(part, 0.0) for part in parts),
                "floor": of_floor / len(counted),
                "counted": sum(step[name] for step in counted) / len(counted),
            }
            for (name, parts), of_floor in zip(COUNTED.items(), least, strict=True)
        ]


def to_record(parts: Mapping[str, float], *, seconds: float, n_steps: int, first: int) -> dict[str, Any]:
    """Return the content of `profile.json`: the time of each part of a step, as a mean.

    Args:
        parts: Seconds of each part over all measured steps.
        seconds: Seconds from the first measured step to the end of the last, validations included.
        n_steps: Number of steps measured.
        first: Number of the first measured step, from 1.
    """
    total = seconds - parts.get(_VALIDATION, 0.0)
    known = {name: value for name, value in parts.items() if name in PARTS}
    known[_REST] = max(0.0, total - sum(known.values()))
    return {
        "first_step": first,
        "steps": n_steps,
        "seconds_per_step": total / n_steps,
        "parts": {name: known[name] / n_steps for name in PARTS if name in known},
    }


def _ranges(profiler: profile) -> list[Range]:
    """Return the parts that this thread has gone through."""
    events: Any = profiler.events()  # type: ignore[no-untyped-call]  # torch's
    return [
        Range(name=event.name.removeprefix(_MARK), start=event.time_range.start, end=event.time_range.end)
        for event in events
        if event.name.startswith(_MARK) and "CPU" in str(event.device_type)  # a GPU has a copy of each
    ]


def count_operations(detector: SpanDetector, work: Callable[[], None]) -> dict[str, int]:
    """Count the operations of matrix products and attention in forward and backward passes, as torch does.

    On a CPU, torch cannot look into the fast kernel of attention, so the plain one does the work.

    Args:
        detector: Detector.
        work: Function that runs it forward and back.

    Returns:
        Operations of each of `COUNTED`; what is computed again in the backward pass is a part of that.
    """
    within = dict.fromkeys(PARTS, 0)

    @contextmanager
    def tallied(name: str) -> Iterator[None]:
        before = counter.get_total_flops()
        yield
        within[name] += counter.get_total_flops() - before

    hooks = [*_watch(detector, tallied, FORWARD), *_watch_parts(detector, tallied)]
    kernel = nullcontext() if _uses_gpu() else sdpa_kernel(SDPBackend.MATH)
    try:
        with kernel, FlopCounterMode(display=False) as counter:
            work()
    finally:
        for hook in hooks:
            hook.remove()
    decoder, heads, forward = within["decoder"], within["heads and loss"], within[FORWARD]
    counts = (forward - decoder - heads, decoder, heads, counter.get_total_flops() - forward)
    return dict(zip(COUNTED, counts, strict=True))


def _watch_parts(detector: SpanDetector, measure: Callable[[str], AbstractContextManager[None]]) -> list[Any]:
    """Measure the forward passes of a detector's parts; return the hooks."""
    return [
        *(hook for tower in detector.vision_tower for hook in _watch(tower, measure, "vision tower")),
        *_watch(detector.decoder, measure, "decoder"),
        *_watch(detector.token_head, measure, "heads and loss"),
        *_watch(detector.sentence_head, measure, "heads and loss"),
    ]


def _watch(module: nn.Module, measure: Callable[[str], AbstractContextManager[None]], name: str) -> list[Any]:
    """Measure a module's forward passes as a part; return the hooks."""
    begun: list[Any] = []

    def begin(_module: nn.Module, _inputs: Any) -> None:
        begun.append(measure(name))
        begun[-1].__enter__()

    def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        begun.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
