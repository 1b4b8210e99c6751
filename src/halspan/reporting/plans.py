"""What a plan says, as tables: what is where, what the peak is made of, and what would make it smaller."""

from collections.abc import Sequence

from halspan.console import WholeTable, new_table
from halspan.models.inventory import gib
from halspan.models.plan import Plan
from halspan.models.remedies import Device, Remedy
from halspan.reporting.tables import weights_table


def show_tables(plan: Plan, devices: Sequence[Device], remedies: Sequence[Remedy]) -> list[WholeTable | str]:
    """Give everything to print about a plan, in order.

    Args:
        plan: of one device.
        devices: that there are; none where there is none of the kind asked for.
        remedies: for a plan that does not fit.
    """
    parts: list[WholeTable | str] = [weights_table(plan.weights), "", memory_table(plan), ""]
    if devices:
        parts.append(devices_table(plan, devices))
    else:
        parts.append(f"It does not fit here: no GPU is visible. It needs one with {gib(plan.peak)} free.")
    return [*parts, "", remedies_table(remedies)] if remedies else parts


def memory_table(plan: Plan) -> WholeTable:
    """Show what the peak is made of, beside the peak of a plain 4-bit load."""
    table = new_table("Memory of one device in training (estimate)", "", "this plan", "plain 4-bit load")
    rows = {
        "frozen weights": (plan.frozen, plan.naive_frozen),
        "adapters and heads": (plan.trained, plan.trained),
        "their gradients": (plan.trained, plan.trained),
        "AdamW moments": (plan.moments, plan.moments),
        "activations that are kept": (plan.activations.kept, plan.activations.kept),
        "activations of the heads": (plan.activations.heads, plan.activations.heads),
        "gradients of one layer's activations": (plan.activations.gradients, plan.activations.gradients),
        "4-bit weights while dequantised": (plan.dequantised, plan.naive_dequantised),
    }
    for name, (here, naive) in rows.items():
        table.add_row(name, gib(here), gib(naive))
    table.add_section()
    table.add_row("peak", gib(plan.peak), gib(plan.naive_peak), style="bold")
    return table


def devices_table(plan: Plan, devices: Sequence[Device]) -> WholeTable:
    """Show whether a plan fits the devices there are, at least one."""
    table = new_table("Devices", "device", "free", "of", "fits")
    for device in devices:
        table.add_row(device.name, gib(device.free), gib(device.total), "yes" if plan.peak <= device.free else "no")
    return table


def remedies_table(remedies: Sequence[Remedy]) -> WholeTable:
    """Show the keys that make a plan smaller, each on its own."""
    table = new_table("What makes it smaller", "key", "saves")
    for remedy in remedies:
        table.add_row(remedy.key, gib(remedy.saves))
    return table
