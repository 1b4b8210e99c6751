"""The memory of a machine, and the settings that make a plan fit into it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import psutil
import torch

from halspan.core.errors import ModelError
from halspan.models.model_spec import EXPERTS, LoraSpec, ModelSpec
from halspan.models.plan.inventory import gib
from halspan.models.plan.memory import PassSize, Plan, fewest_devices, make_plan

_SHORTEST = 64  # tokens of a pass
_USUAL = (24, 48, 80, 141)  # GiB of memory of GPUs
_USED = 0.9  # share of the free memory that a plan may take; activations are an estimate

Change = Callable[[ModelSpec, PassSize], tuple[ModelSpec, PassSize]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The memory available to one training process.

    Attributes:
        name: Name of the device.
        free: Bytes that are not in use.
        total: Bytes in total.
    """

    name: str
    free: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A setting that makes a plan smaller.

    Attributes:
        key: Key and value as written on the command line.
        saves: Bytes of the peak that it saves alone.
        change: Function that makes the same change to the inputs of the plan.
    """

    key: str
    saves: int
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Enough:
    """The fewest devices that are enough together.

    Attributes:
        free: Bytes that are free on each device.
        plan: Plan of one of them; None if no number of them is enough.
    """

    free: int
    plan: Plan | None


def find_enough(spec: ModelSpec, size: PassSize, plan: Plan, devices: Sequence[Device]) -> list[Enough]:
    """Find the fewest GPUs that hold a backbone together: of those that are here, or else of usual sizes.

    Args:
        spec: Spec of the detector.
        size: Largest pass.
        plan: Plan of the same spec.
        devices: GPUs; empty if none is visible.
    """
    here = [min(device.free for device in devices)] if devices else [gigabytes * 2**30 for gigabytes in _USUAL]
    return [Enough(free=free, plan=fewest_devices(spec, size, free=free, like=plan)) for free in here]


def find_devices(accelerator: Literal["cpu", "gpu"], n: int) -> list[Device]:
    """Return the devices for `n` training processes: up to `n` GPUs, or equal shares of this machine's memory."""
    if accelerator == "gpu":
        return [_gpu(number) for number in range(min(n, torch.cuda.device_count()))]
    memory = psutil.virtual_memory()
    return [Device(name="CPU", free=memory.available // n, total=memory.total // n)] * n


def shrink_to_fit(spec: ModelSpec, size: PassSize, *, free: int | None) -> PassSize:
    """Return the largest pass, up to a given one, whose plan leaves a tenth of the free memory.

    Args:
        spec: Spec of the detector.
        size: Largest pass.
        free: Bytes; None where no device is known, so that any pass fits.

    Returns:
        The size; at least a line of `_SHORTEST` tokens, whether or not that fits.
    """
    plan = make_plan(spec, size)
    least, most = min(_SHORTEST, size.tokens), size.tokens
    if free is None or plan.peak <= _USED * free:
        return size
    while most - least > _SHORTEST:
        middle = (least + most) // 2
        fits = make_plan(spec, replace(size, tokens=middle), like=plan).peak <= _USED * free
        least, most = (middle, most) if fits else (least, middle)
    return replace(size, tokens=least)


def find_remedies(spec: ModelSpec, size: PassSize, plan: Plan) -> list[Remedy]:
    """Find settings that make a plan smaller, largest savings first, by making the plan again with each."""
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
        The keys, and the plan with all of them; None instead of the plan if all remedies together are not enough.
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
        ModelError: It does not fit; the message names the keys that would make it fit.
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
    """Return possible changes by their keys, whether or not they already apply or help."""
    half = max(1, spec.pack_tokens // 2)
    changes: dict[str, Change] = {
        "model.quantize=nf4": lambda spec, size: (replace(spec, quantize="nf4"), size),
        "model.gradient_checkpointing=true": lambda spec, size: (replace(spec, gradient_checkpointing=True), size),
        "model.dtype=bfloat16": lambda spec, size: (replace(spec, dtype="bfloat16"), size),
        "model.attention=sdpa": lambda spec, size: (replace(spec, attention="sdpa"), size),
        f"trainer.tokens_per_pass={spec.pack_tokens}": lambda spec, size: (
            spec,
            replace(size, tokens=min(size.tokens, spec.pack_tokens)),
        ),
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
