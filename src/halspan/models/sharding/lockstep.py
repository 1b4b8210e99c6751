"""Passes that all processes take together: a layer in shards is whole for none of them unless all ask for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from halspan.models.inputs.batch import Batch
from halspan.models.sharding import processes


class Lockstep:
    """What keeps the passes of processes in step, although their shares of the work differ.

    Before each pass, the processes say whether they have one of their own. Those that have none left take a pass that
    does not count, as long as any other has one.

    Args:
        detector: Detector in shards; from now on, its processes must all call `catch_up` where each has finished.
        idle: Small batch of a pass that does not count.
    """

    def __init__(self, detector: nn.Module, idle: Batch) -> None:
        self._detector = detector
        self._idle = idle
        detector.register_forward_pre_hook(self._announce)

    def catch_up(self, *, backward: bool = False) -> None:
        """Take part in the passes of other processes until none has one left.

        Args:
            backward: Whether they are passes of training, with gradients; those of this process's passes are zero.
        """
        while self._ask(has_pass=False):
            idle = self._idle.to(next(self._detector.parameters()).device)
            with torch.set_grad_enabled(backward):
                logits = self._detector.forward(idle)  # not through the hook: this pass is nobody's own
            if backward:
                (0 * (logits.token.sum() + logits.type.sum() + logits.sentence.sum())).backward()

    def _announce(self, _: nn.Module, __: Any) -> None:
        self._ask(has_pass=True)

    def _ask(self, *, has_pass: bool) -> bool:
        """Return whether any process has a pass to take."""
        device = next(self._detector.parameters()).device
        return bool(processes.add_up(torch.tensor(int(has_pass), device=device)))


@contextmanager
def in_step(detector: Any) -> Iterator[None]:
    """Let processes score different numbers of captions, or none at all, in the block, if a detector is in shards."""
    lockstep: Lockstep | None = detector.lockstep
    try:
        yield
    finally:
        if lockstep is not None:
            lockstep.catch_up()
