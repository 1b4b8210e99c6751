"""`trainer.profile`: where the time of an optimizer step goes, measured by torch.profiler over a few steps."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from typing_extensions import override

from halspan.core.files import write_json
from halspan.models.detector import SpanDetector
from halspan.models.private.torch import is_profiled
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
    """

    def __init__(self, run: RunDirectory, detector: SpanDetector) -> None:
        self._run = run
        self._detector = detector
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
        elif trainer.global_step == self._first + STEPS:
            self._end(STEPS)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End where the run has fewer steps."""
        if self._profiler is not None:
            self._end(trainer.global_step - self._first)

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
        self._hooks = [
            *(hook for tower in self._detector.vision_tower for hook in _watch(tower, "vision tower")),
            *_watch(self._detector.decoder, "decoder"),
            *_watch(self._detector.token_head, "heads and loss"),
            *_watch(self._detector.sentence_head, "heads and loss"),
        ]
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if _uses_gpu() else [])]
        self._profiler = profile(activities=activities)
        self._profiler.start()
        self._began = time.perf_counter()

    def _end(self, n_steps: int) -> None:
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
        write_json(self._run.profile, record)


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


def _watch(module: nn.Module, name: str) -> list[Any]:
    """Count the time of a module's forward passes as a part; return the hooks."""
    begun: list[Any] = []

    def begin(_module: nn.Module, _inputs: Any) -> None:
        begun.append(timed(name))
        begun[-1].__enter__()

    def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        begun.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
