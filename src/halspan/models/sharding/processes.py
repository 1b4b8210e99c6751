"""Exchange between the processes that hold a backbone together: rows of tensors, whole tensors, decisions."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def number() -> int:
    """Return the 0-based number of this process."""
    return dist.get_rank()


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size()


def device() -> torch.device:
    """Return the device of this process, on which it exchanges tensors."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if "nccl" in dist.get_backend_config()
        else torch.device("cpu")
    )


def mesh() -> DeviceMesh:
    """Return all processes in a row, each with its device."""
    return init_device_mesh(device().type, (count(),), mesh_dim_names=("fsdp",))  # peft knows shards by this name


def rows_of(n_rows: int, process: int, n_processes: int) -> tuple[int, int]:
    """Return the first row of a process's shard, and the row after its last one, as `torch.chunk` divides rows.

    >>> [rows_of(5, process, 3) for process in range(3)]
    [(0, 2), (2, 4), (4, 5)]
    """
    size = -(-n_rows // n_processes)
    return min(process * size, n_rows), min((process + 1) * size, n_rows)


def scatter_rows(whole: Tensor, *, owner: int) -> Tensor:
    """Return this process's rows of a tensor that one process has.

    Args:
        whole: Contiguous tensor with at least one axis; only shape, type and device count where it is not the owner's.
        owner: Number of the process that has it.
    """
    parts = [rows_of(len(whole), process, count()) for process in range(count())]
    start, stop = parts[number()]
    if number() == owner:
        for process, (first, end) in enumerate(parts):
            if process != owner and end > first:
                dist.send(_as_bytes(whole[first:end]), process)
        return whole[start:stop].clone()
    mine = torch.empty((stop - start, *whole.shape[1:]), dtype=whole.dtype, device=whole.device)
    if stop > start:
        dist.recv(_as_bytes(mine), owner)
    return mine


def broadcast(tensor: Tensor, *, owner: int) -> Tensor:
    """Fill a contiguous tensor with that of one process, and return it."""
    dist.broadcast(_as_bytes(tensor), owner)
    return tensor


def add_up(tensor: Tensor) -> Tensor:
    """Fill a tensor with its sum over all processes, and return it."""
    dist.all_reduce(tensor)
    return tensor


def _as_bytes(tensor: Tensor) -> Tensor:
    """Return the memory of a tensor: not every backend exchanges every type."""
    return tensor.view(-1).view(torch.uint8)
