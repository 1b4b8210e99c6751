"""The processes of a job as a group: started where nothing else did, joined, and one of them decides for all."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from halspan.core.errors import ConfigError, ResourceError
from halspan.core.process import SLURM, TORCHRUN, Launcher, find_launcher
from halspan.training.run_spec import TrainerSpec

if TYPE_CHECKING:  # torch is imported where there are several processes
    from torch.distributed import Store  # type: ignore[attr-defined]  # public in its documentation

JOIN_MINUTES = 10
"""Minutes in which all processes have to be there."""
ANSWER_MINUTES = 30
"""Minutes after which a process that lives, but takes no part in an exchange, ends the job."""

_RETRY_SECONDS = 2.0
_LAST_SECONDS = 5.0  # in which processes that this one has started may end by themselves

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes that work together, as one of them sees them.

    Attributes:
        rank: 0-based number of this process.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what a function returns in the first process; the others wait for it and do not call it.

        Raises:
            SystemExit: In the others, where it raised an error in the first.
        """
        if self.count == 1:
            return make()
        from torch.distributed import broadcast_object_list

        said: list[Any] = [None, True]
        if self.rank == 0:
            try:
                said = [make(), False]
            finally:
                broadcast_object_list(said)
        else:
            broadcast_object_list(said)
        if said[1]:
            raise SystemExit(1)
        return said[0]  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """Return the value of each process, in the first process; the others return an empty list."""
        if self.count == 1:
            return [value]
        from torch.distributed import gather_object

        values: list[Any] = [None] * self.count
        gather_object(value, values if self.rank == 0 else None)
        return values if self.rank == 0 else []


@contextmanager
def together(spec: TrainerSpec, *, to_go_on: str) -> Iterator[Group]:
    """Join the processes of a job for the time of a block; where nothing has started them, start them.

    The variables of torchrun say from then on which process this is (`halspan.core.process.speaker`). Where one of them
    ends, the others do so within a minute (`halspan.training.processes.watch`).

    Args:
        spec: Number of devices and machines.
        to_go_on: Command that continues the work of a job that has ended.

    Raises:
        ConfigError: There are not as many processes as devices.
        ResourceError: Some of them do not come.
    """
    launcher = find_launcher()
    _check_count(spec, launcher)
    if spec.all_devices == 1 and spec.strategy != "fsdp":  # shards are exchanged by a group, even if of one
        yield Group()
        return
    _check_gpus(spec)
    os.environ.update(_variables(spec, launcher))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch warns with its stack where a process has ended
    if spec.threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(spec.threads))  # Lightning would choose another number
    started = [] if launcher else _start_others(spec.devices)
    try:
        with _joined(spec, started, to_go_on) as group:
            yield group
    finally:
        _end(started)


def _check_count(spec: TrainerSpec, launcher: Launcher | None) -> None:
    asked, keys = spec.all_devices, f"trainer.devices={spec.devices} trainer.nodes={spec.nodes}"
    if launcher is None:
        if spec.nodes > 1:
            raise ConfigError(
                f"trainer.nodes: {spec.nodes} machines, but nothing has started a process on each: use torchrun or "
                f"srun with {spec.devices} processes a machine (docs/guides/cluster.md)"
            )
    elif (count := int(os.environ[launcher.count])) != asked:
        raise ConfigError(
            f"trainer.devices, trainer.nodes: {launcher.title} has started {count} processes, but {keys} asks for "
            f"{asked}; make the numbers equal, or start one process (SLURM: --ntasks=1)"
        )


def _check_gpus(spec: TrainerSpec) -> None:
    """Require the GPUs of this machine before others are started, and torch refuses one in its own words."""
    if spec.accelerator == "gpu":
        from halspan.training.fit import check_machine

        check_machine(spec)


def _variables(spec: TrainerSpec, launcher: Launcher | None) -> dict[str, str]:
    """Return the variables of torchrun, by which Lightning and torch find the group, whatever started it."""
    if launcher is TORCHRUN:
        return {}
    if launcher is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address, port = "127.0.0.1", free.getsockname()[1]
        return _as_torchrun(0, 0, spec, address, port)
    rank, local = (int(os.environ[name]) for name in (launcher.rank, launcher.local_rank))
    if launcher is not SLURM:
        return _as_torchrun(rank, local, spec, "127.0.0.1", 15000 + os.getppid() % 10000)
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    first = SLURMEnvironment.resolve_root_node_address(os.environ.get("SLURM_NODELIST", "127.0.0.1"))
    port = 15000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 10000
    return _as_torchrun(
        rank, local, spec, os.environ.get("MASTER_ADDR", first), int(os.environ.get("MASTER_PORT", port))
    )


def _as_torchrun(rank: int, local: int, spec: TrainerSpec, address: str, port: int) -> dict[str, str]:
    count = spec.all_devices
    own = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": count, "GROUP_RANK": rank // spec.devices}
    shared = {"MASTER_ADDR": address, "MASTER_PORT": port}
    return {name: str(value) for name, value in (own | shared).items()}


def _start_others(count: int) -> list["subprocess.Popen[bytes]"]:
    """Start this command again for each further device of this machine."""
    command = [sys.executable, *sys.orig_argv[1:]]
    return [
        subprocess.Popen(command, env=_of_rank(os.environ, rank), stdin=subprocess.DEVNULL) for rank in range(1, count)
    ]


def _of_rank(environment: Mapping[str, str], rank: int) -> dict[str, str]:
    return {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def _end(started: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Wait for processes that this one has started; they write nothing, so those that hang are killed."""
    limit = time.monotonic() + _LAST_SECONDS
    for process in started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, limit - time.monotonic()))
    for process in started:
        process.kill()
        process.wait()


@contextmanager
def _joined(spec: TrainerSpec, started: Sequence["subprocess.Popen[bytes]"], to_go_on: str) -> Iterator[Group]:
    import torch
    from torch import distributed
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public in its documentation

    from halspan.training.processes.watch import Watch

    group = Group(rank=int(os.environ["RANK"]), count=int(os.environ["WORLD_SIZE"]))
    store = _meet(group, started)
    store.set_timeout(timedelta(minutes=ANSWER_MINUTES))
    on_gpu = spec.accelerator == "gpu"
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore("group", store),
        rank=group.rank,
        world_size=group.count,
        timeout=timedelta(minutes=ANSWER_MINUTES),
        device_id=torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else None,
    )
    watch = Watch(lambda: _connect(is_server=False), to_go_on=to_go_on)
    watch.start()
    try:
        yield group
    except BaseException:
        watch.stop(has_failed=True)
        raise
    watch.stop(has_failed=False)
    distributed.destroy_process_group()


def _meet(group: Group, started: Sequence["subprocess.Popen[bytes]"]) -> "Store":
    """Wait until all processes are there.

    Raises:
        ResourceError: They are not there in time, or one that was started has ended.
    """
    from torch.distributed import DistError

    limit = time.monotonic() + 60 * JOIN_MINUTES
    parent, store, there = os.getppid(), None, 0
    keys = [f"there/{rank}" for rank in range(group.count)]
    while time.monotonic() < limit and os.getppid() == parent:
        try:
            if store is None:
                store = _connect(is_server=group.rank == 0)
                store.set(keys[group.rank], "")
            if (there := sum(store.check([key]) for key in keys)) == group.count:
                return store
        except DistError:  # the first process is not there yet
            store = None
        if ended := [process for process in started if process.poll() is not None]:
            raise ResourceError(
                f"a process that was to train with this one ended at its start, with status {ended[0].returncode}; "
                "its own message says why"
            )
        time.sleep(_RETRY_SECONDS / 20)
    raise ResourceError(
        f"{there} of {group.count} processes were there within {JOIN_MINUTES} minutes; start as many as "
        "trainer.devices x trainer.nodes (SLURM: with srun), and let them reach each other at "
        f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    )


def _connect(*, is_server: bool) -> "Store":
    """Open the store by which processes find each other; torchrun has one of its own."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public in its documentation

    has_own = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=is_server and not has_own,
        timeout=timedelta(seconds=30),
        wait_for_workers=False,
    )
    return PrefixStore(f"halspan/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
