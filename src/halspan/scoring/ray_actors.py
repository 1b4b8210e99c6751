"""Shards scored by the actors of a Ray cluster, which restarts those that die."""

from collections.abc import Iterator, Sequence
from typing import Any

from halspan.core.errors import ConfigError, ResourceError, first_lines
from halspan.core.process import keep_threads_from_spinning
from halspan.data.streams.records import Shard
from halspan.scoring.job import Job
from halspan.scoring.shards import MOST_DEATHS, PATIENCE, POLL


def launch(job: Job, shards: Sequence[Shard], workers: int, *, address: str | None = None) -> Iterator[set[Shard]]:
    """Score shards in actors of a Ray cluster, which restarts those that die; yield what is finished.

    All machines of the cluster see the input, the images and the output under the same paths,
    or in object stores.

    Args:
        job: The job.
        shards: The shards to score.
        workers: Number of actors.
        address: Address of the cluster; None for the one that is running, or one on this machine.

    Raises:
        ConfigError: Ray is not installed.
        ResourceError: A worker died again and again, or the cluster is lost.
    """
    ray = import_ray()
    if not ray.is_initialized():
        _join(ray, address)
    has_gpus = job.device is None and ray.cluster_resources().get("GPU", 0) > 0
    options = {"num_cpus": job.threads, "num_gpus": int(has_gpus)}
    actor = ray.remote(**options, max_restarts=-1, max_task_retries=MOST_DEATHS)(Worker)
    actors = [actor.remote(job) for _ in range(workers)]
    free, waiting = list(actors), list(shards)
    running: dict[Any, tuple[Any, Shard]] = {}
    try:
        while waiting or running:
            while free and waiting:
                one = free.pop()
                shard = waiting.pop(0)
                running[one.score.remote(shard)] = one, shard
            done, _ = ray.wait(list(running), timeout=POLL)
            finished = set()
            for result in done:
                one, shard = running.pop(result)
                _take(ray, result)
                free.append(one)
                finished.add(shard)
            yield finished
    finally:
        for one in actors:
            ray.kill(one)


class Worker:
    """A scorer that stays loaded; Ray makes an actor of it.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        keep_threads_from_spinning()
        self._job = job

    def score(self, shard: Shard) -> None:
        """Score what is left of a shard."""
        self._job.run(shard, resume=True, patience=PATIENCE)


def import_ray() -> Any:
    """Import and return Ray.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--launch: Ray is not installed; pip install 'halspan[ray]', or use --devices") from None
    return ray


def _join(ray: Any, address: str | None) -> None:
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # its own and Python's, of many classes
        where = "a Ray cluster" if address is None else f"the Ray cluster {address}"
        raise ResourceError(
            f"--address: {where} cannot be reached ({first_lines(error)}); give the address that `ray start --head` "
            "printed, or leave it out to use this machine"
        ) from None


def _take(ray: Any, result: Any) -> None:
    try:
        ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ResourceError(
            f"Ray lost a worker for good ({type(error).__name__}: {first_lines(error)}); look at its log (`ray logs`), "
            "then the same command with --resume continues"
        ) from None
