"""The devices of this machine, by their names."""

import torch

from halspan.core.errors import ModelError


def find_device(device: str | torch.device | None) -> torch.device:
    """Return a device of this machine.

    Args:
        device: Name such as `cpu` or `cuda:1`; None for the first GPU, or the CPU where there is none.

    Raises:
        ModelError: The device does not exist; the message lists the devices.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    counts = {"cpu": 1}
    if (accelerator := torch.accelerator.current_accelerator(check_available=True)) is not None:
        counts[accelerator.type] = torch.accelerator.device_count()
    there = ", ".join(name for kind, n in counts.items() for name in ([kind] if n == 1 else _numbered(kind, n)))
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ModelError(f"device: must be the name of a device, got {device!r}; this machine has {there}") from None
    if (found.index or 0) >= counts.get(found.type, 0):
        raise ModelError(f"device: torch sees no {str(found)!r} on this machine; it has {there}")
    return found


def _numbered(kind: str, n: int) -> list[str]:
    return [f"{kind}:{number}" for number in range(n)]
