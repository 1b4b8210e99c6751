"""The time of training, from the fewest operations it takes and the speed of this machine's matrix products."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from halspan.models.plan.floor import count_floor, full_row
from halspan.models.plan.skeleton import Skeleton

MEASURED_SHARE = 0.59
"""Share of the speed of plain matrix products that the floor's operations reached in training.

Measured on a CPU with a dense text decoder by `benchmarks/plan_time.py`; on GPUs not measured.
"""

_WIDTHS = {"cpu": 1024, "cuda": 8192}  # of the square matrices that are multiplied
_TURNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """The time of training on full rows.

    Attributes:
        rate: Operations per second of matrix products on one device.
        operations: Fewest operations of one row.
        rows: Number of rows.
        devices: Number of devices that share them.
        all_experts: How many times as many routed experts the backbone's own code computes as a token goes to.
    """

    rate: float
    operations: int
    rows: int
    devices: int
    all_experts: float

    @property
    def by_floor(self) -> float:
        """Return the seconds at the speed of plain matrix products."""
        return self.rows * self.operations / (self.rate * self.devices)

    @property
    def expected(self) -> float:
        """Return the seconds at the share of that speed that was measured."""
        return self.by_floor / MEASURED_SHARE


def estimate_duration(skeleton: Skeleton, *, rows: int, device: torch.device, is_mixed: bool, devices: int) -> Duration:
    """Measure a device for a second, and count what training takes on it.

    Args:
        skeleton: Skeleton of the detector.
        rows: Number of rows to train on.
        device: A device like those that train.
        is_mixed: Whether matrices are multiplied in bfloat16 whatever their dtype (autocast).
        devices: Number of devices that share the rows.
    """
    dtype = torch.bfloat16 if is_mixed else getattr(torch, skeleton.spec.dtype)
    return Duration(
        rate=measure_rate(device, dtype),
        operations=count_floor(skeleton, [full_row(skeleton)], is_training=True).total,
        rows=rows,
        devices=devices,
        all_experts=_all_experts(skeleton.config.get_text_config()),
    )


def measure_rate(device: torch.device, dtype: torch.dtype, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Measure the operations per second of large matrix products; a multiplication with its addition is two.

    Args:
        device: Device that multiplies.
        dtype: Type of the matrices.
        clock: Clock in seconds.
    """
    width = _WIDTHS.get(device.type, _WIDTHS["cuda"])
    matrix = torch.randn(width, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    seconds = []
    for _ in range(_TURNS + 1):
        start = clock()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(clock() - start)
    return 2 * width**3 / statistics.median(seconds[1:])  # the first one warms up


def _all_experts(text: Any) -> float:
    """Return how many times the experts of a token are computed, where every token goes through all of them."""
    if text.model_type != "llama4_text":
        return 1.0
    return float(text.num_local_experts / text.num_experts_per_tok)
