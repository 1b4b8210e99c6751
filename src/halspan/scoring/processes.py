"""Shards scored by processes of this machine, one for each GPU, or any number on its CPU."""

import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from threading import Thread

import torch

from halspan.core.errors import ResourceError
from halspan.data.streams.records import Shard
from halspan.scoring.job import Job
from halspan.scoring.shards import MOST_DEATHS, PATIENCE, POLL


def launch(job: Job, shards: Sequence[Shard], workers: int) -> Iterator[set[Shard]]:
    """Score shards in processes of this machine, each with a GPU of its own or on the CPU; yield what is finished.

    A process that is killed is started again.

    Raises:
        ResourceError: A shard had its process killed again and again.
    """
    devices = [f"cuda:{n}" if job.device is None and torch.cuda.is_available() else job.device for n in range(workers)]
    free, waiting = [_Process(replace(job, device=device)) for device in devices], list(shards)
    running: dict[_Process, Shard] = {}
    deaths: Counter[Shard] = Counter()
    try:
        while waiting or running:
            while free and waiting:
                worker = free.pop()
                running[worker] = waiting.pop(0)
                worker.send(running[worker])
            finished = set()
            for worker in _ready(running):
                shard = running.pop(worker)
                if worker.take():
                    free.append(worker)
                    finished.add(shard)
                    continue
                deaths[shard] += 1
                if deaths[shard] > MOST_DEATHS:
                    raise ResourceError(
                        f"the process that scores shard {shard} was killed {deaths[shard]} times, perhaps because "
                        "memory is short; the same command with --resume continues"
                    )
                waiting.insert(0, shard)
                free.append(_Process(worker.job))
            yield finished
    finally:
        for worker in (*free, *running):
            worker.end()


class _Process:
    """A process that scores shards.

    Args:
        job: The job, with the device of this process.
    """

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.job = job
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(job, theirs), daemon=True)
        with _ctrl_c_held_back():
            self._process.start()
        theirs.close()  # so that the end of the process ends the connection

    def send(self, shard: Shard) -> None:
        """Have a shard scored."""
        with suppress(BrokenPipeError):  # it was killed, which `take` says
            self.connection.send(shard)

    def take(self) -> bool:
        """Return whether its shard is scored; otherwise it was killed.

        Raises:
            Exception: That of the shard.
        """
        try:
            error: BaseException | None = self.connection.recv()
        except (EOFError, ConnectionError):
            self.end()
            return False
        if error is not None:
            raise error
        return True

    def end(self) -> None:
        """End it; what it has finished is on disk."""
        self.connection.close()
        self._process.kill()
        self._process.join()


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started meanwhile, also while they import; here it comes afterwards."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # the first process would start it, and it lets the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(job: Job, connection: Connection) -> None:
    """Score the shards that come, until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the first ends these
    Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError):
        while True:
            shard = connection.recv()
            try:
                job.run(shard, resume=True, patience=PATIENCE)
            except Exception as error:
                connection.send(error)
            else:
                connection.send(None)


def _end_with_parent() -> None:
    """End this process when its parent has ended, even by a kill; otherwise it would hold the lock of its part."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _ready(workers: Collection[_Process]) -> list[_Process]:
    done = wait([worker.connection for worker in workers], timeout=POLL)
    return [worker for worker in workers if worker.connection in done]
