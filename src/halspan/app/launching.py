"""Sweeps through submitit: each job gets its processes, and a job that dies leaves the others."""

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from halspan.core.files import write_json
from halspan.core.process import is_first_process

logger = logging.getLogger(__name__)

SUBMITIT = ("submitit_slurm", "submitit_local")
"""Launchers that start the processes of each job."""
BEGUN = "the job ended before its run did: it was killed, or its machine was lost"
"""Error in the record of a job that has begun, until it ends."""

_PUTTING_BACK_SECONDS = 20.0  # in which other processes wait for the first one, because their end may end the job


def processes_of_jobs(config: DictConfig, given: Sequence[str]) -> list[str]:
    """Return the overrides by which a job of submitit gets a process for each device of its trainer.

    Args:
        config: Configuration of the sweep, hydra's included.
        given: Keys on the command line, which are left as they are.
    """
    if config.hydra.runtime.choices.get("hydra/launcher") not in SUBMITIT:
        return []
    trainer = config.trainer
    counts = {"nodes": trainer.nodes, "tasks_per_node": trainer.devices}
    if trainer.accelerator == "gpu":
        counts["gpus_per_node"] = trainer.devices
    return [f"hydra.launcher.{key}={n}" for key, n in counts.items() if f"hydra.launcher.{key}" not in given]


def put_back(number: int) -> None:
    """Let submitit answer a signal that has ended training: on SIGUSR2 it puts the job back and ends this process.

    Args:
        number: Number of the signal. Training has ended after its step, and `last.ckpt` is written.
    """
    if HydraConfig.get().runtime.choices.get("hydra/launcher") not in SUBMITIT:
        return
    signal.raise_signal(number)
    if not is_first_process():
        time.sleep(_PUTTING_BACK_SECONDS)
        sys.exit(128 + number)


def job_file(sweep_dir: str | Path, number: int) -> Path:
    """Return the place of a job's record."""
    return Path(sweep_dir) / "jobs" / f"{number:05d}.json"


@contextmanager
def patient_launchers() -> Iterator[None]:
    """Make submitit's launchers wait for all jobs; otherwise the first that dies would end the sweep."""
    try:
        import submitit
    except ImportError:  # sweeps on this machine do without it
        yield
        return
    executor = submitit.AutoExecutor

    class Patient(executor):  # type: ignore[misc, valid-type]  # what the plugin of hydra builds
        def map_array(self, fn: Any, *arguments: Any) -> list[_Awaited]:
            overrides, _, numbers, *_ = (list(each) for each in arguments)
            jobs = super().map_array(fn, *arguments)
            files = [job_file(fn.config.hydra.sweep.dir, number) for number in numbers]
            return [_Awaited(*each) for each in zip(jobs, files, overrides, strict=True)]

    submitit.AutoExecutor = Patient  # type: ignore[misc]
    try:
        yield
    finally:
        submitit.AutoExecutor = executor  # type: ignore[misc]


class _Awaited:
    """A job whose end is a result in any case: without a result of its own, its record says that it failed.

    Args:
        job: Job of submitit.
        file: Its record.
        overrides: Its overrides.
    """

    def __init__(self, job: Any, file: Path, overrides: Sequence[str]) -> None:
        self._job = job
        self._file = file
        self._overrides = list(overrides)

    def results(self) -> list[JobReturn]:
        """Wait for the job, and return what its processes returned."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

        try:
            results: list[JobReturn] = self._job.results()
        except (FailedJobError, FailedSubmissionError, UncompletedJobError):
            self._record_death()
            results = [JobReturn(status=JobStatus.COMPLETED)]
        return results

    def _record_death(self) -> None:
        unknown: dict[str, Any] = {
            "run_name": " ".join(self._overrides),
            "run_dir": None,
            "overrides": self._overrides,
            "figures": {},
        }
        record = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else unknown
        if record.get("error", BEGUN) == BEGUN:  # otherwise it is the run's own
            record |= {"status": 1, "error": f"{BEGUN}; its log is {self._job.paths.stderr}"}
            write_json(self._file, record)
        logger.warning("%s failed: %s", record["run_name"], record["error"])
