"""Shards on plain processes and on Ray, with kills: `python benchmarks/shards.py` (its part of RESULTS.md).

A tiny LLaVA with random weights scores the same records four times: in one process; as shards of two plain processes;
as the same shards of two Ray actors; and again on Ray, where actors are killed (SIGKILL) at random moments. The outputs
must be the same bytes; otherwise it fails.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from growth import save_tiny, write_corpus
from measuring import say
from results import machine, write_section

from halspan.data.streams.records import Shard
from halspan.scoring import ray_actors
from halspan.scoring.job import Job
from halspan.scoring.shards import prepare, run_all

HEADING = "## Shards"
WORKERS = 2
COMMAND = [sys.executable, "-c", "from halspan.cli import main; main()", "score"]


def main() -> None:
    """Score in four ways, compare, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny(folder / "detector")
        write_corpus(folder, arguments.records)
        seconds = measure(folder, arguments)
    write_section(HEADING, [*explain(arguments), "", *table(seconds)])


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Score in each way; return the seconds of each."""
    import ray

    shards, plain = arguments.shards, folder / "plain" / "scored.jsonl"
    ways: dict[str, Callable[[], None]] = {
        "one process": lambda: run_commands([[*places(folder, folder / "one" / "scored.jsonl")]]),
        "two plain processes": lambda: run_plain(folder, plain, shards),
    }
    seconds = {name: timed(name, work) for name, work in ways.items()}
    start = time.perf_counter()
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    seconds["start of Ray"] = time.perf_counter() - start
    on_ray = partial(run_ray, folder, n_shards=shards)
    seconds["two Ray actors"] = timed("two Ray actors", partial(on_ray, folder / "ray" / "scored.jsonl"))
    kills = Kills(arguments.kills, random.Random(arguments.seed))
    killed = f"two Ray actors, killed {arguments.kills} times"
    seconds[killed] = timed(killed, partial(on_ray, folder / "killed" / "scored.jsonl", on_progress=kills))
    ray.shutdown()
    if kills.left:
        raise SystemExit(f"{kills.left} kills were left when everything was scored; give more records")
    compare(folder, ["plain", "ray", "killed"])
    return seconds


class Kills:
    """Kills of a worker at random moments, while it scores.

    Args:
        n: Number of kills.
        source: Source of moments.
    """

    def __init__(self, n: int, source: random.Random) -> None:
        self.left = n
        self._source = source
        self._next = 0.0

    def __call__(self, n_lines: int) -> None:
        """Kill a worker, if it is time and one scores."""
        if not self.left or not n_lines or time.monotonic() < self._next:
            return
        names = [(child, name_of(child)) for child in psutil.Process().children(recursive=True)]
        if workers := [child for child, name in names if "ray::Worker.score" in name]:
            os.kill(self._source.choice(workers).pid, signal.SIGKILL)
            self.left -= 1
            self._next = time.monotonic() + self._source.uniform(0, 12)


def name_of(process: psutil.Process) -> str:
    """Return what a process is called; nothing if it is about to end."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def timed(name: str, work: Callable[[], None]) -> float:
    """Do something, and return its seconds."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    say(f"{name}: {seconds:.0f} s")
    return seconds


def places(folder: Path, output: Path) -> list[str]:
    """Return the options that say what is scored, and where to."""
    return ["-d", str(folder / "detector"), "-i", str(folder / "captions.jsonl"), "-o", str(output)]


def run_plain(folder: Path, output: Path, n_shards: int) -> None:
    """Score every second shard in each of two plain processes at a time, and merge them."""
    commands = [[*places(folder, output), "--shard", f"{index}/{n_shards}"] for index in range(1, n_shards + 1)]
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(run_commands, [commands[first::WORKERS] for first in range(WORKERS)]))
    run_commands([["--merge", str(output)]])


def run_commands(commands: Sequence[Sequence[str]]) -> None:
    """Run `halspan score` with each list of options."""
    for options in commands:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*COMMAND, *options], env=environment, stderr=subprocess.DEVNULL, check=True)


def run_ray(folder: Path, output: Path, *, n_shards: int, on_progress: Callable[[int], None] = lambda _: None) -> None:
    """Score shards in two Ray actors."""
    job = Job(detector=str(folder / "detector"), input_=folder / "captions.jsonl", output=output)
    shards: list[Shard] = prepare(job, workers=WORKERS, n_shards=n_shards, resume=False, overwrite=False)
    nothing: Any = lambda _: None  # noqa: E731
    run_all(job, shards, workers=WORKERS, launch=ray_actors.launch, on_start=nothing, on_progress=on_progress)


def compare(folder: Path, names: Sequence[str]) -> None:
    """Require the bytes of one process from each way."""
    expected = (folder / "one" / "scored.jsonl").read_bytes()
    if different := [name for name in names if (folder / name / "scored.jsonl").read_bytes() != expected]:
        raise SystemExit(f"{', '.join(different)}: not the bytes of one process")


def explain(arguments: argparse.Namespace) -> list[str]:
    """Say what was done."""
    return [
        f"`python benchmarks/shards.py` on {machine()}: a tiny LLaVA with random weights scores "
        f"{arguments.records:,} captions, in one process and as {arguments.shards} shards, with one thread each. "
        f"{arguments.kills} kills (SIGKILL) of an actor that scores, at random moments. All outputs are the same "
        "bytes. A plain process loads the detector anew for each shard, an actor once."
    ]


def table(seconds: dict[str, float]) -> list[str]:
    """Return the table of seconds."""
    return ["| way | seconds |", "|---|---|", *(f"| {name} | {spent:.0f} |" for name, spent in seconds.items())]


if __name__ == "__main__":
    main()
