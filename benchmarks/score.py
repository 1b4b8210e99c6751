"""Scoring many captions: `python benchmarks/score.py --detector exports/shapes` (its part of RESULTS.md).

Captions of the shapes world are written again and again under new ids, 1 % of the records damaged in several ways, and
scored three times by `halspan score`: a small part of them, whose peak memory is that of the detector; all of them in
one go; and all of them in a run that is killed (SIGKILL) at random moments and resumed each time. It fails unless both
outputs are the same bytes, each damaged record is rejected and no other is, and memory stays in its bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from results import machine, write_section

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "data" / "shapes" / "v2-seed0-photos3000"
HEADING = "## Scoring many captions"
SMALL = 512  # records whose peak memory stands for the detector's own
BLOCK = 256  # records that are finished together
LEFT = 10  # blocks after the last kill, at least
MOST_DELAY = 3.0  # seconds between the end of a block and a kill
MOST_MIB = 200  # beyond it
MIB = 2**20
KINDS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "cut off in the middle": lambda record: dump(record)[:200],
    "not JSON": lambda _: b"<html>502 Bad Gateway</html>",
    "not UTF-8": lambda record: dump(record)[:-2] + b"\xe9}",
    "a list": lambda record: dump([record]),
    "no text": lambda record: dump(record | {"text": ""}),
    "a sentence beyond the text": lambda record: dump(record | {"sentences": [{"start": 0, "end": 10**6}]}),
    "a misspelled key": lambda record: dump(record | {"sentances": []}),
    "no image": lambda record: dump(record | {"image": "images/nowhere.png"}),
    "a damaged image": lambda record: dump(record | {"image": "broken.png"}),
    "an image that is text": lambda record: dump(
        {key: value for key, value in record.items() if key != "image"} | {"image_base64": "aGVsbG8="}
    ),
}


@dataclass(frozen=True)
class Run:
    """Result of a child process: its exit status, seconds, and largest resident set in MiB."""

    status: int
    seconds: float
    peak: float


def main() -> None:
    """Write the records, score them in both ways, compare, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", required=True, help="folder of an exported detector")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="captions.jsonl and images of the shapes world")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the damage and of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lines = measure(arguments, Path(name), random.Random(arguments.seed))
    write_section(HEADING, lines)


def measure(arguments: argparse.Namespace, folder: Path, source: random.Random) -> list[str]:
    """Run the benchmark and return the lines of its section."""
    damaged = write_records(arguments.corpus, folder, arguments.records, source)
    command = [sys.executable, "-c", "from halspan.cli import main; main()", "score", "--detector", arguments.detector]
    small = run([*command, *places(folder, "small", "small")])
    whole = run([*command, *places(folder, "captions", "whole")])
    killed = run_killed(
        [*command, *places(folder, "captions", "killed")],
        folder / "killed" / "scored.jsonl",
        arguments.records,
        arguments.kills,
        source,
    )
    check(folder, damaged, arguments.records)
    peak = max(item.peak for item in [whole, *killed])
    if peak - small.peak > MOST_MIB:
        raise SystemExit(f"{peak - small.peak:.0f} MiB beyond the detector's own memory, more than {MOST_MIB}")
    n_scored = arguments.records - len(damaged)
    return [
        f"`python benchmarks/score.py` on {machine()}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s): "
        f"{arguments.records:,} records, {len(damaged):,} of them damaged in {len(KINDS)} ways. Killed "
        f"{arguments.kills} times at random moments and resumed, the output is the same bytes as that of one run; "
        "every damaged record was rejected with its line and reason, and no other.",
        "",
        "| run | seconds | captions/s | peak memory, MiB | beyond the detector's, MiB |",
        "|---|---|---|---|---|",
        f"| {SMALL} records | {small.seconds:.0f} | | {small.peak:,.0f} | |",
        row("all, in one go", [whole], n_scored, small.peak),
        row(f"all, killed {arguments.kills} times", killed, n_scored, small.peak),
    ]


def row(name: str, runs: list[Run], n_scored: int, base: float) -> str:
    """Write a row of the table."""
    seconds, peak = sum(item.seconds for item in runs), max(item.peak for item in runs)
    return f"| {name} | {seconds:.0f} | {n_scored / seconds:.0f} | {peak:,.0f} | {peak - base:,.0f} |"


def write_records(corpus: Path, folder: Path, n_records: int, source: random.Random) -> dict[int, str]:
    """Write the input and a small part of it; gives the kind of damage by line number."""
    (folder / "images").symlink_to(corpus.resolve() / "images")
    picture = next((corpus / "images").iterdir()).read_bytes()
    (folder / "broken.png").write_bytes(picture[: len(picture) // 2])
    damaged = {
        number: source.choice(list(KINDS)) for number in source.sample(range(1, n_records + 1), n_records // 100)
    }
    with (folder / "captions.jsonl").open("wb") as file:
        for number, record in zip(range(1, n_records + 1), repeat(corpus / "captions.jsonl"), strict=False):
            line = KINDS[damaged[number]](record) if number in damaged else dump(record)
            file.write(line + b"\n")
    with (folder / "captions.jsonl").open("rb") as whole, (folder / "small.jsonl").open("wb") as small:
        small.writelines(line for _, line in zip(range(SMALL), whole, strict=False))
    return damaged


def repeat(captions: Path) -> Iterator[dict[str, Any]]:
    """Yield the captions again and again, with new ids."""
    turn = 0
    while True:
        with captions.open("rb") as file:
            for line in file:
                record = json.loads(line)
                yield record | {"id": f"{turn}/{record['id']}"}
        turn += 1


def dump(value: Any) -> bytes:
    """Write JSON."""
    return json.dumps(value, ensure_ascii=False).encode()


def places(folder: Path, input_: str, output: str) -> list[str]:
    """Return the paths of the input and the output."""
    return ["--input", str(folder / f"{input_}.jsonl"), "--output", str(folder / output / "scored.jsonl")]


def run(command: list[str], moment: Callable[[], None] | None = None) -> Run:
    """Run a child process to its end, or kill it when `moment` returns."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=None if moment is None else subprocess.DEVNULL)
    if moment is not None:
        moment()
        os.kill(process.pid, signal.SIGKILL)  # harmless where it has ended: its status was not collected yet
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"exit status {process.returncode}: {' '.join(command)}")
    return Run(process.returncode, time.perf_counter() - start, usage.ru_maxrss * 1024 / MIB)


def run_killed(command: list[str], output: Path, n_records: int, kills: int, source: random.Random) -> list[Run]:
    """Start, kill at a random moment, resume, and so on; in the end let it finish."""
    targets = sorted(source.sample(range(max(kills, n_records // BLOCK - LEFT)), kills))
    runs = [
        run([*command, "--resume"], partial(wait, output, target, source.uniform(0, MOST_DELAY))) for target in targets
    ]
    if any(item.status == 0 for item in runs):
        raise SystemExit("a kill came after the end; more records, or another --seed")
    return [*runs, run([*command, "--resume"])]


def wait(output: Path, n_blocks: int, delay: float) -> None:
    """Wait until so many blocks are finished, or the output is, and then for so many seconds."""
    journal = output.with_name(f"{output.name}.journal")
    while not output.exists() and not (journal.exists() and journal.read_bytes().count(b"\n") > n_blocks):
        time.sleep(0.05)
    time.sleep(delay)


def check(folder: Path, damaged: dict[int, str], n_records: int) -> None:
    """Compare both outputs with each other, and with what was damaged."""
    for name in ("scored.jsonl", "scored.rejected.jsonl"):
        if (folder / "whole" / name).read_bytes() != (folder / "killed" / name).read_bytes():
            raise SystemExit(f"{name} of the killed run differs")
    if extra := {path.name for path in (folder / "killed").iterdir()} - {"scored.jsonl", "scored.rejected.jsonl"}:
        raise SystemExit(f"left behind: {', '.join(sorted(extra))}")
    rejected = [json.loads(line)["line"] for line in (folder / "killed" / "scored.rejected.jsonl").open("rb")]
    if rejected != sorted(damaged):
        wrong = sorted(set(rejected) ^ set(damaged))
        raise SystemExit(f"rejected or not by mistake: {[(number, damaged.get(number)) for number in wrong[:5]]}")
    with (folder / "captions.jsonl").open("rb") as file:
        expected = (json.loads(line)["id"] for number, line in enumerate(file, 1) if number not in damaged)
        scored = (json.loads(line)["id"] for line in (folder / "killed" / "scored.jsonl").open("rb"))
        if any(one != other for one, other in zip(expected, scored, strict=True)):
            raise SystemExit("the output has other captions than the input")
    if not n_records // 100 == len(damaged) > 0:
        raise SystemExit("too few records to damage 1 % of them")


if __name__ == "__main__":
    main()
