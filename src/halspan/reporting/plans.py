"""Tables of a memory plan: the size of each component, the parts of the peak, and settings that reduce it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from halspan.console import WholeTable, new_table
from halspan.models.plan.duration import MEASURED_SHARE, Duration
from halspan.models.plan.floor import count_floor, full_row
from halspan.models.plan.inventory import Weights, gib
from halspan.models.plan.memory import Plan
from halspan.models.plan.remedies import Device, Enough, Remedy
from halspan.models.plan.sharing import Sharing
from halspan.models.plan.skeleton import Skeleton

_MOST_ROWS = 8  # devices in a table


def show_tables(
    plan: Plan,
    devices: Sequence[Device],
    remedies: Sequence[Remedy],
    enough: Sequence[Enough] = (),
    duration: Duration | None = None,
) -> list[WholeTable | str]:
    """Return everything to print about a plan, in order.

    Args:
        plan: Plan of one device.
        devices: Available devices; empty if there is none of the requested kind.
        remedies: Remedies for a plan that does not fit.
        enough: For one or several amounts of memory, the fewest devices that hold the backbone together.
        duration: Time of training; None where no device is there to measure.
    """
    parts: list[WholeTable | str] = [weights_table(plan.weights), "", memory_table(plan), ""]
    if plan.sharing is not None:
        parts += [shards_table(plan.sharing), ""]
    if enough:
        parts += [enough_table(enough), ""]
    parts += [floor_table(plan.skeleton), ""]
    if duration is not None:
        parts += [duration_table(duration), ""]
    if devices:
        parts.append(devices_table(plan, devices))
    else:
        parts.append(f"It does not fit here: no GPU is visible. It needs one with {gib(plan.peak)} free.")
    return [*parts, "", remedies_table(remedies)] if remedies else parts


def memory_table(plan: Plan) -> WholeTable:
    """Return a table of the parts of the peak, next to the peak of a plain 4-bit load."""
    table = new_table("Memory of one device in training (estimate)", "", "this plan", "plain 4-bit load")
    rows = {
        "frozen weights": (plan.frozen, plan.naive_frozen),
        "whole layers during a pass": (plan.passing, 0),
        "adapters and heads": (plan.trained, plan.trained),
        "their gradients": (plan.trained, plan.trained),
        "AdamW moments": (plan.moments, plan.moments),
        "activations that are kept": (plan.activations.kept, plan.activations.kept),
        "activations of the heads": (plan.activations.heads, plan.activations.heads),
        "gradients of one layer's activations": (plan.activations.gradients, plan.activations.gradients),
        "4-bit weights while dequantized": (plan.dequantized, plan.naive_dequantized),
    }
    if plan.sharing is None:
        del rows["whole layers during a pass"]  # they are there all the time
    for name, (here, naive) in rows.items():
        table.add_row(name, gib(here), gib(naive))
    table.add_section()
    table.add_row("peak", gib(plan.peak), gib(plan.naive_peak), style="bold")
    return table


def shards_table(sharing: Sharing) -> WholeTable:
    """Return a table of what each of several devices has of the frozen weights, and what of it is whole."""
    table = new_table(f"Frozen weights on {sharing.devices} devices", "", "dtype", "size", left=2)
    for device in range(min(sharing.devices, _MOST_ROWS)):
        table.add_row(f"shard of device {device}", "", gib(sharing.share(device)))
    if sharing.devices > _MOST_ROWS:
        table.add_row("and so on", "", "")
    table.add_row("all shards", "", gib(sharing.sharded))
    table.add_section()
    for part in sharing.replicated:
        table.add_row(f"whole on each: {part.component}", part.dtype, gib(part.bytes))
    table.add_section()
    table.add_row("a shard, and what is whole", "", gib(sharing.share() + sharing.whole), style="bold")
    return table


def enough_table(enough: Sequence[Enough]) -> WholeTable:
    """Return a table of the fewest devices that are enough with `trainer=fsdp`, by their memory."""
    table = new_table("The fewest devices in shards (trainer=fsdp)", "free on each", "trainer.devices", "peak")
    for each in enough:
        plan = each.plan
        n = "no number" if plan is None or plan.sharing is None else f"{plan.sharing.devices:,}"
        table.add_row(gib(each.free), n, "" if plan is None else gib(plan.peak))
    return table


def floor_table(skeleton: Skeleton) -> WholeTable:
    """Return a table of the fewest operations that parts of a pass take (see `halspan.models.plan.floor`)."""
    table = new_table("The fewest operations (GFLOP)", "", "scoring", "training")
    row = full_row(skeleton)
    whole, image, token, alone = (
        [count_floor(skeleton, [size], is_training=is_training) for is_training in (False, True)]
        for size in (row, replace(row, prompt=0), replace(row, tiles=(), prompt=1), replace(row, tiles=()))
    )
    if row.tiles:
        table.add_row(f"an image of {sum(row.tiles):,} patches", *(_giga(of.total) for of in image))
    table.add_row("a token of the prompt or a caption, alone", *(_giga(of.total) for of in token))
    length = f"{row.prompt:,} tokens that see what is before them"
    table.add_row(length, *(_giga(of.total) for of in alone))
    if row.tiles:
        table.add_row("image and tokens: a full row", *(_giga(of.total) for of in whole))
    return table


def duration_table(duration: Duration) -> WholeTable:
    """Return a table of the time of training by the fewest operations, and at the share of their speed measured."""
    table = new_table(f"Time of training on {duration.rows:,} full rows (estimate)", "", "")
    devices = f"{duration.devices:,} device{'s' * (duration.devices > 1)}"
    table.add_row("matrix products of one device, measured here", f"{_giga(int(duration.rate))} GFLOP/s")
    table.add_row(f"the fewest operations at this speed, {devices}", _time(duration.by_floor))
    table.add_row(f"at the measured share of {MEASURED_SHARE:.0%} (docs/speed.md)", _time(duration.expected))
    if duration.all_experts > 1:
        table.add_row(f"every token goes through {duration.all_experts:g} times its experts", "longer")
    return table


def _time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def _giga(operations: int) -> str:
    return f"{operations / 1e9:,.3g}" if operations < 1e12 else f"{operations / 1e9:,.0f}"


def devices_table(plan: Plan, devices: Sequence[Device]) -> WholeTable:
    """Return a table that shows whether a plan fits the devices, at least one."""
    table = new_table("Devices", "device", "free", "of", "fits")
    for device in devices:
        table.add_row(device.name, gib(device.free), gib(device.total), "yes" if plan.peak <= device.free else "no")
    return table


def remedies_table(remedies: Sequence[Remedy]) -> WholeTable:
    """Return a table of the settings that make a plan smaller, each on its own."""
    table = new_table("What makes it smaller", "key", "saves")
    for remedy in remedies:
        table.add_row(remedy.key, gib(remedy.saves))
    return table


def trainable_table(components: Mapping[str, tuple[int, int]]) -> WholeTable:
    """Return a table of the number of trained parameters in each component.

    Args:
        components: Number of trained parameters and of all parameters, by component.
    """
    table = new_table("Parameters", "component", "trained", "all", "share")
    total = tuple(sum(counts) for counts in zip(*components.values(), strict=True))
    for name, (trained, everything) in {**components, "all": total}.items():
        table.add_row(name, f"{trained:,}", f"{everything:,}", f"{trained / everything:.1%}" if everything else "")
    return table


def weights_table(weights: Sequence[Weights]) -> WholeTable:
    """Return a table of parameters and bytes by component and dtype, with totals."""
    table = new_table("Weights", "component", "dtype", "parameters", "size", left=2)
    for part in weights:
        table.add_row(part.component, part.dtype, f"{part.parameters:,}", gib(part.bytes))
    table.add_section()
    n, size = sum(part.parameters for part in weights), sum(part.bytes for part in weights)
    table.add_row("all", "", f"{n:,}", gib(size), style="bold")
    return table
