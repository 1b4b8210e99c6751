"""Kills at random moments, a full disk, a damaged checkpoint: `python benchmarks/faults.py --kills 200`.

Five commands (training, judging, exporting, scoring, downloading) are killed (SIGKILL) at random moments and started
again, up to five times in a row, and then left to finish. What they leave is compared with what a command left that was
never killed: weights tensor by tensor, figures, predictions and images byte by byte, and no file more or less. Any
difference ends the benchmark with its name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from measuring import say
from results import machine, write_section

from halspan.testing.small_corpora import write_corpus

HEADING = "## Faults"
IN_A_ROW = 5  # kills before a command is left to finish
MANY = 10_000
TIMEOUT = 300.0  # seconds after which a command hangs
BLOCK = 32  # records that are scored together; a benchmark of few records needs small blocks
CAPTIONS = 8 * BLOCK
IMAGES = 200  # to download
DISK_KIB = 192  # of the small disk
PRELOADED = ["halspan.app.train", "halspan.app.evaluate", "halspan.app.export", "halspan.scoring.job"]
VARYING = {"command", "date", "commit"}  # of a run's record: how and when it was made


@dataclass
class Tally:
    """What was done with one command.

    Attributes:
        seconds: Seconds that it takes, unharmed.
        kills: Number of times that it was killed before its end.
        finished: Number of times that it was left to finish and compared.
        moments: Shares of its time, those of the kills before included, after which it was killed.
    """

    seconds: float = 0.0
    kills: int = 0
    finished: int = 0
    moments: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Command:
    """A command that continues where it was killed.

    Attributes:
        name: What it does.
        run: Function that does it in a folder; it is called in a process of its own.
        look: Function that returns all that it has left in the folder, by name.
    """

    name: str
    run: Callable[[Path], None]
    look: Callable[[Path], dict[str, Any]]


def main() -> None:
    """Do all of it, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, prepared(Path(name)) as commands:
        source = random.Random(arguments.seed)
        tallies = {command.name: Tally() for command in commands}
        for command in commands:
            share = -(-arguments.kills // len(commands))
            kill_often(command, tallies[command.name], Path(name), share, source)
        others = [
            ("a disk that fills while scoring", fill_disk(Path(name), commands[0])),
            ("a last.ckpt with changed bytes", damage_checkpoint(Path(name), commands[1], source)),
        ]
    spent = time.perf_counter() - start
    write_section(HEADING, [*explain(arguments.kills, spent), "", *table(tallies), "", *others_table(others)])


@contextmanager
def prepared(folder: Path) -> Iterator[list[Command]]:
    """Write corpora, train and export one detector, and serve images; yield the commands."""
    corpus = write_corpus(folder / "corpus", n_images=24)
    reference, detector, captions = folder / "reference", folder / "detector", folder / "many" / "captions.jsonl"
    in_process(partial(halspan, *training(corpus, reference / "run")))
    in_process(partial(halspan, "export", f"run={reference / 'run'}", f"to={detector}"))
    write_many(corpus, captions)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder / "served")))
    write_images(folder / "served")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}/{number}.png" for number in range(IMAGES)]
    try:
        yield [
            Command("scoring", partial(score, detector, captions), look_at_files),
            Command("training", partial(train, corpus), look_at_run),
            Command("judging", partial(judge, reference / "run"), look_at_run),
            Command("exporting", partial(export, reference / "run"), look_at_files),
            Command("downloading", partial(download, urls), look_at_images),
        ]
    finally:
        server.shutdown()


def kill_often(command: Command, tally: Tally, folder: Path, kills: int, source: random.Random) -> None:
    """Kill a command so many times, and compare what it leaves in the end of each row of kills."""
    whole = folder / "whole" / command.name
    tally.seconds = in_process(partial(command.run, whole))
    expected = command.look(whole)
    while tally.kills < kills:
        place, left = folder / "killed" / command.name, 1.0
        for _ in range(min(IN_A_ROW, kills - tally.kills)):
            moment = source.random() * left  # of what is left to do, or most kills would come too late
            if not is_killed(partial(command.run, place), moment * tally.seconds):
                break  # it had finished
            tally.kills += 1
            tally.moments.append(1 - left + moment)
            left -= moment
        in_process(partial(command.run, place))
        compare(command.name, command.look(place), expected)
        tally.finished += 1
        shutil.rmtree(place)
        say(f"{command.name}: {tally.kills} kills, {tally.finished} times compared")


def compare(name: str, left: dict[str, Any], expected: dict[str, Any]) -> None:
    """Require that a command has left what it should."""
    if differing := sorted(key for key in left.keys() | expected.keys() if left.get(key) != expected.get(key)):
        raise SystemExit(f"{name}: {', '.join(differing)} differ from those of a command that was never killed")


def in_process(work: Callable[[], None]) -> float:
    """Do something in a process of its own, and return its seconds."""
    process = started(work)
    start = time.perf_counter()
    process.join(TIMEOUT)
    if process.exitcode != 0:
        process.kill()
        raise SystemExit(f"{work}: ended with {process.exitcode}")
    return time.perf_counter() - start


def is_killed(work: Callable[[], None], seconds: float) -> bool:
    """Start something and kill it after some seconds; return whether it was killed before its end."""
    process = started(work)
    process.join(seconds)
    process.kill()
    process.join()
    return bool(process.exitcode)


def started(work: Callable[[], None]) -> Any:
    """Start a process that need not import everything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=quietly, args=(work,))
    process.start()
    return process


def quietly(work: Callable[[], None]) -> None:
    """Do something without a word, but keep the words where it fails."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 -- it lasts as long as the process
    terminal = os.dup(2)
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    try:
        work()
    except SystemExit as end:
        if end.code:
            log.seek(0)
            os.write(terminal, log.read()[-4000:])
            raise


def halspan(*words: str) -> None:
    """Run a command as the console does."""
    from halspan.cli import main

    main(list(words))


def training(corpus: Path, run: Path) -> list[str]:
    """Return the command that trains the tiny Llama-4 for a few steps."""
    return [
        "train",
        "model=llama4_tiny",
        "data=jsonl",
        f"data.path={corpus}",
        "split.held_out=[cleo]",
        "trainer.threads=1",
        "trainer.rows_per_batch=4",
        "trainer.max_steps=12",
        "trainer.max_epochs=null",
        "trainer.val_every_steps=6",
        "trainer.save_every_steps=2",
        f"run_dir={run}",
        "resume=auto",
    ]


def train(corpus: Path, place: Path) -> None:
    """Train and judge."""
    halspan(*training(corpus, place / "run"))


def judge(run: Path, place: Path) -> None:
    """Judge a run again, in a copy of it."""
    if not (place / "run").exists():
        shutil.copytree(run, place / "copying", dirs_exist_ok=True)
        (place / "copying").rename(place / "run")
    halspan("evaluate", f"run={place / 'run'}")


def export(run: Path, place: Path) -> None:
    """Export a run, unless that is done already."""
    if not (place / "detector").exists():
        halspan("export", f"run={run}", f"to={place / 'detector'}")


def score(detector: Path, captions: Path, place: Path) -> None:
    """Score captions, in small blocks."""
    from halspan.data.streams import records

    records.BLOCK = BLOCK
    output = place / "scored.jsonl"
    halspan("score", "-d", str(detector), "-i", str(captions), "-o", str(output), "--resume")


def download(urls: list[str], place: Path) -> None:
    """Fetch images from this machine."""
    from halspan.data.download.fetch import Downloader

    for _ in Downloader(images=place, allow_loopback=True).run(tuple(urls)):
        pass


def look_at_files(place: Path) -> dict[str, Any]:
    """Return a hash of every file."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def look_at_images(place: Path) -> dict[str, Any]:
    """Return a hash of every image, and the lines of the manifest, which come as servers answer, without cut ones."""
    left = look_at_files(place)
    manifest = next(place.rglob("manifest.jsonl"))
    lines = sorted(line for line in manifest.read_text().splitlines() if line.endswith("}"))
    return left | {str(manifest.relative_to(place)): lines}


def look_at_run(place: Path) -> dict[str, Any]:
    """Return weights, figures and predictions of a run, and the names of its files."""
    import torch

    run = place / "run"
    left: dict[str, Any] = {"files": sorted(path.name for path in run.iterdir())}
    for name in ("last.ckpt", "best.ckpt"):
        weights = torch.load(run / name, weights_only=True)["state_dict"]
        left |= {f"{name} {key}": hash_of(weight.numpy().tobytes()) for key, weight in weights.items()}
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["run"] = {key: value for key, value in metrics["run"].items() if key not in VARYING}
    left |= {f"metrics.json {key}": value for key, value in metrics.items()}
    return left | {f"predictions/{key}": value for key, value in look_at_files(run / "predictions").items()}


def hash_of(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def fill_disk(folder: Path, scoring: Command) -> str:
    """Score onto a disk that is too small, then make it larger and continue; return what was seen."""
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        return "not tried: only root can mount a small disk"
    try:
        process = started(partial(scoring.run, disk / "out"))
        process.join(TIMEOUT)
        if process.exitcode != 1:
            raise SystemExit(f"a full disk: the command ended with {process.exitcode}, not 1")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        in_process(partial(scoring.run, disk / "out"))
        compare("a full disk", scoring.look(disk / "out"), scoring.look(folder / "whole" / scoring.name))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return f"{DISK_KIB} KiB: one line, status 1; with more room, --resume ends with the same bytes"


def damage_checkpoint(folder: Path, command: Command, source: random.Random) -> str:
    """Kill training, change bytes in `last.ckpt`, and continue; return what was seen."""
    place = folder / "damaged"
    expected, seconds = command.look(folder / "whole" / command.name), 0.0
    while not (place / "run" / "previous.ckpt").exists():
        seconds += 0.25
        shutil.rmtree(place, ignore_errors=True)
        is_killed(partial(command.run, place), seconds)
    last = place / "run" / "last.ckpt"
    data = bytearray(last.read_bytes())
    for _ in range(8):
        data[source.randrange(len(data) // 4, len(data) // 2)] ^= 0xFF
    last.write_bytes(data)
    in_process(partial(command.run, place))
    compare("a damaged checkpoint", command.look(place), expected)
    return "continued from previous.ckpt; weights and figures are those of a run that was never stopped"


def write_many(corpus: Path, captions: Path) -> None:
    """Write captions under new ids, some of which cannot be used."""
    captions.parent.mkdir()
    lines = corpus.read_text().splitlines()
    with captions.open("w") as file:
        for number in range(CAPTIONS):
            record = json.loads(lines[number % len(lines)])
            own = {"id": str(number), "image": str(corpus.parent / record["image"])}
            file.write("no record\n" if number % 50 == 7 else json.dumps(record | own) + "\n")


def write_images(folder: Path) -> None:
    """Write small images, each of its own content."""
    from PIL import Image

    folder.mkdir()
    for number in range(IMAGES):
        Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(folder / f"{number}.png")


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


def explain(kills: int, seconds: float) -> list[str]:
    """Say what was done, and what many more would take."""
    hours = seconds / kills * MANY / 3600
    return [
        f"`python benchmarks/faults.py --kills {kills}` on {machine()}: every command is killed (SIGKILL) at random "
        f"moments of its time, up to {IN_A_ROW} times in a row, and then left to finish. Nothing was lost, doubled or "
        f"different, to the byte. {seconds / 60:.0f} minutes; {MANY:,} kills would take {hours:.0f} hours."
    ]


def table(tallies: dict[str, Tally]) -> list[str]:
    """Return the table of kills."""
    lines = [
        "| command | seconds, unharmed | kills | moments, quartiles | finished and compared |",
        "|---|---|---|---|---|",
    ]
    for name, tally in tallies.items():
        moments = sorted(tally.moments)
        quartiles = ", ".join(f"{moments[len(moments) * part // 4]:.0%}" for part in (1, 2, 3))
        lines.append(f"| {name} | {tally.seconds:.1f} | {tally.kills} | {quartiles} | {tally.finished} |")
    return lines


def others_table(others: list[tuple[str, str]]) -> list[str]:
    """Return the table of other faults."""
    return ["| fault | what was seen |", "|---|---|", *(f"| {what} | {seen} |" for what, seen in others)]


if __name__ == "__main__":
    main()
