"""AdamW with a learning rate for each part of the detector, and the schedule of both."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from halspan.training.spec import OptimizerSpec


def build_optimizer(
    spec: OptimizerSpec, *, lora: Iterable[nn.Parameter], heads: Iterable[nn.Parameter], total_steps: int
) -> tuple[AdamW, LambdaLR]:
    """Build the optimiser and its schedule, one step of the schedule for each optimiser step.

    Args:
        spec: rates, decay and schedule.
        lora: trained weights of the backbone; may be none.
        heads: trained weights of the heads.
        total_steps: optimiser steps of the whole run.
    """
    groups = [
        {"params": parameters, "lr": lr, "weight_decay": decay}
        for part, lr in ((list(lora), spec.lora_lr), (list(heads), spec.head_lr))
        for parameters, decay in (
            ([p for p in part if p.ndim > 1], spec.weight_decay),
            ([p for p in part if p.ndim <= 1], 0.0),
        )
        if parameters
    ]
    optimizer = AdamW(groups, betas=spec.betas)
    n_warmup = math.ceil(spec.warmup_fraction * total_steps)
    return optimizer, LambdaLR(optimizer, lambda step: schedule_factor(step, spec.schedule, n_warmup, total_steps))


def schedule_factor(step: int, schedule: str, n_warmup: int, total_steps: int) -> float:
    """Give the share of the peak learning rate that optimiser step `step` (from 0) takes.

    Rises in equal parts over the first `n_warmup` steps and is 1 right after them; would be 0 at `total_steps`,
    the first step that is not taken.
    """
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    done = (step - n_warmup) / max(1, total_steps - n_warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return max(0.0, 1 - done) if schedule == "linear" else 1.0
