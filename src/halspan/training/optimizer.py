"""AdamW with a learning rate for each part of the detector, and the schedule of those rates."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from halspan.training.run_spec import OptimizerSpec


def build_optimizer(
    spec: OptimizerSpec, *, lora: Iterable[nn.Parameter], heads: Iterable[nn.Parameter], total_steps: int
) -> tuple[AdamW, LambdaLR]:
    """Build the optimizer and its schedule, with one step of the schedule per optimizer step.

    Args:
        spec: Rates, decay and schedule.
        lora: Trained weights of the backbone; may be empty.
        heads: Trained weights of the heads.
        total_steps: Optimizer steps of the whole run.
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
    """Return the share of the peak learning rate in optimizer step `step` (from 0).

    It rises linearly over the first `n_warmup` steps and is 1 right after them. It would be 0 at `total_steps`, the
    first step that is not taken.
    """
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    done = (step - n_warmup) / max(1, total_steps - n_warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return max(0.0, 1 - done) if schedule == "linear" else 1.0
