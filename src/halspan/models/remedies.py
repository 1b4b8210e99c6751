"""The memory that a machine has, and the keys that make a plan fit into it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import psutil
import torch

from halspan.core.errors import ModelError
from halspan.models.inventory import gib
from halspan.models.plan import PassSize, Plan, make_plan
from halspan.models.spec import EXPERTS, LoraSpec, ModelSpec

Change = Callable[[ModelSpec, PassSize], tuple[ModelSpec, PassSize]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The memory that one training process can have.

    Attributes:
        name: of the device.
        free: bytes that nobody uses.
        total: bytes.
    """

    name: str
    free: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A key that makes a plan smaller.

    Attributes:
        key: as it is written on the command line.
        saves: bytes of the peak, when it alone is changed.
        change: the same change of what the plan is made from.
    """

    key: str
    saves: int
    change: Change


def find_devices(accelerator: Literal["cpu", "gpu"], n: int) -> list[Device]:
    """Look at what there is for `n` training processes: up to `n` GPUs, or equal shares of this machine's memory."""
    if accelerator == "gpu":
        return [_gpu(number) for number in range(min(n, torch.cuda.device_count()))]
    memory = psutil.virtual_memory()
    return [Device(name="CPU", free=memory.available // n, total=memory.total // n)] * n


def find_remedies(spec: ModelSpec, size: PassSize, plan: Plan) -> list[Remedy]:
    """Find the keys that make a plan smaller, those that save most first, by making the plan again with each."""
    remedies = []
    for key, change in _changes(spec).items():
        changed = change(spec, size)
        if changed != (spec, size) and (saves := plan.peak - make_plan(*changed, like=plan).peak) > 0:
            remedies.append(Remedy(key=key, saves=saves, change=change))
    return sorted(remedies, key=lambda remedy: -remedy.saves)


def combine_remedies(
    spec: ModelSpec, size: PassSize, plan: Plan, remedies: Sequence[Remedy], *, free: int
) -> tuple[list[str], Plan | None]:
    """Take remedies, in order, until the plan fits into `free` bytes.

    Returns:
        The keys, and the plan with all of them; no plan where all remedies together are not enough.
    """
    keys = []
    for remedy in remedies:
        spec, size = remedy.change(spec, size)
        keys.append(remedy.key)
        plan = make_plan(spec, size, like=plan)
        if plan.peak <= free:
            return keys, plan
    return keys, None


def require_room(spec: ModelSpec, size: PassSize, plan: Plan, devices: Sequence[Device]) -> None:
    """Refuse a plan that does not fit the smallest of the devices.

    Raises:
        ModelError: it does not fit; names the keys that would make it fit.
    """
    device = min(devices, key=lambda device: device.free)
    if plan.peak <= device.free:
        return
    remedies = find_remedies(spec, size, plan)
    keys, smaller = combine_remedies(spec, size, plan, remedies, free=device.free)
    needs = f"model: training needs {gib(plan.peak)} at its peak, {device.name} has {gib(device.free)} free"
    if smaller is not None:
        raise ModelError(f"{needs}; it fits ({gib(smaller.peak)}) with: {' '.join(keys)}; plan=true shows all of it")
    tried = f"even {' '.join(keys)} is not enough" if keys else "no key makes it smaller"
    raise ModelError(f"{needs}; {tried}: take a smaller model or a larger device; plan=true shows all of it")


def _gpu(number: int) -> Device:
    free, total = torch.cuda.mem_get_info(number)
    return Device(name=f"GPU {number} ({torch.cuda.get_device_name(number)})", free=free, total=total)


def _changes(spec: ModelSpec) -> dict[str, Change]:
    """Give what can be changed, whether or not it is so already, or helps."""
    half = max(1, spec.pack_tokens // 2)
    changes: dict[str, Change] = {
        "model.quantize=nf4": lambda spec, size: (replace(spec, quantize="nf4"), size),
        "model.gradient_checkpointing=true": lambda spec, size: (replace(spec, gradient_checkpointing=True), size),
        "model.dtype=bfloat16": lambda spec, size: (replace(spec, dtype="bfloat16"), size),
        "model.attention=sdpa": lambda spec, size: (replace(spec, attention="sdpa"), size),
        "trainer.rows_per_pass=1": lambda spec, size: (spec, replace(size, rows=1)),
        f"model.pack_tokens={half}": lambda spec, size: (replace(spec, pack_tokens=half), size),
    }
    for key, lora in _smaller_adapters(spec.lora).items() if spec.lora is not None else ():
        changes[key] = partial(_with_lora, lora=lora)
    return changes


def _smaller_adapters(lora: LoraSpec) -> dict[str, LoraSpec]:
    smaller = {}
    if lora.r > 1:
        smaller[f"model.lora.r={lora.r // 2}"] = replace(lora, r=lora.r // 2)
    others = [target for target in lora.targets if target != EXPERTS]
    if others and len(others) < len(lora.targets):
        smaller[f"model.lora.targets=[{','.join(others)}]"] = replace(lora, targets=others)
    return smaller


def _with_lora(spec: ModelSpec, size: PassSize, *, lora: LoraSpec) -> tuple[ModelSpec, PassSize]:
    return replace(spec, lora=lora), size
