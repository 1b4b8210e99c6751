"""Kills at random moments: `python benchmarks/faults.py --kills 200` (its part of RESULTS.md).

Training, judging, exporting, scoring and downloading are killed with SIGKILL at moments that are drawn evenly over the
time that they take, and begun again by the same command, until a trial has had its kills. The command then ends by
itself, and every byte that it leaves is compared with that of a run that nothing disturbed. Training also has its
newest checkpoint damaged after each kill, and a disk of its own that fills up (a small tmpfs; root alone can make one).

Commands run in forks of this process, which has imported everything: a kill then costs a second, not a start of Python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"})

import torch
from results import machine, write_section

from halspan.app import export, fitting, train
from halspan.app.entry import run_entry
from halspan.cli import data as cli_data  # noqa: F401  # imported once, for all forks
from halspan.cli import main as run_halspan
from halspan.data.download import fetch
from halspan.testing.small_corpora import write_corpus

HEADING = "## Faults"
IMAGES = 24  # of the corpus that is trained on
STEPS = 30  # optimizer steps of a run
ADDRESSES = 120  # images that are downloaded


@dataclass
class Kind:
    """Something that is killed.

    Attributes:
        name: What it is called in the table.
        prepare: Function that makes the folder of a trial.
        run: Function that does the work there, or goes on with it; it runs in a fork.
        results: Function that returns what the work left, by name.
        harm: Function that does more harm after a kill; None for none.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    results: Callable[[Path], dict[str, str]]
    harm: Callable[[Path, random.Random], None] | None = None


@dataclass
class Outcome:
    """What became of the trials of a kind."""

    kills: int = 0
    trials: int = 0
    too_late: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    """Kill, go on, compare; exit with status 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all, evenly over what is killed")
    parser.add_argument("--per-trial", type=int, default=5, help="kills before the command ends by itself")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary, _web_server() as address:
        top = Path(temporary)
        kinds = _kinds(top, address)
        each = -(-arguments.kills // len(kinds))
        outcomes = {kind.name: _try(kind, top, each, arguments.per_trial, draw) for kind in kinds}
        outcomes |= _fill_disks(kinds[0], top, draw)
    write_section(HEADING, _report(outcomes, arguments))
    if any(outcome.wrong for outcome in outcomes.values()):
        sys.exit(1)


def _try(kind: Kind, top: Path, kills: int, per_trial: int, draw: random.Random) -> Outcome:
    """Kill one kind of work, in as many trials as it takes."""
    whole = _new_trial(kind, top, "whole")
    start = time.monotonic()
    if (status := _wait(_fork(kind, whole))) != 0:
        sys.exit(f"{kind.name}: ends with status {status} where nothing disturbs it:\n{_log(whole)}")
    duration, expected = time.monotonic() - start, kind.results(whole)
    outcome, began = Outcome(), time.monotonic()
    while outcome.kills < kills:
        trial = _new_trial(kind, top, f"trial{outcome.trials}")
        for _ in range(per_trial):
            _kill_once(kind, trial, draw.uniform(0, duration), outcome)
            if kind.harm is not None:
                kind.harm(trial, draw)
        if (status := _wait(_fork(kind, trial))) != 0:
            outcome.wrong.append(f"{trial.name}: status {status}: {_log(trial)[-300:]}")
        elif (left := kind.results(trial)) != expected:
            differing = sorted(name for name in left.keys() | expected if left.get(name) != expected.get(name))
            outcome.wrong.append(f"{trial.name}: {', '.join(differing)}")
        outcome.trials += 1
        shutil.rmtree(trial)
        print(f"{kind.name}: {outcome.kills} kills, {len(outcome.wrong)} wrong", flush=True)
    outcome.seconds = time.monotonic() - began
    shutil.rmtree(whole)
    return outcome


def _kill_once(kind: Kind, trial: Path, seconds: float, outcome: Outcome) -> None:
    process = _fork(kind, trial)
    time.sleep(seconds)
    ended, _ = os.waitpid(process, os.WNOHANG)
    if ended:
        outcome.too_late += 1
        return
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    outcome.kills += 1


def _fork(kind: Kind, trial: Path) -> int:
    """Start the work of a trial in a fork with a process group of its own, which writes into a log."""
    if (process := os.fork()) != 0:
        with suppress(PermissionError):  # the fork may have done it already
            os.setpgid(process, process)
        return process
    os.setpgid(0, 0)
    log = os.open(trial / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        kind.run(trial)
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(end.code or 0))
    except BaseException as error:
        os.write(2, repr(error).encode())
    os._exit(70)


def _wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _new_trial(kind: Kind, top: Path, name: str) -> Path:
    trial = top / name
    trial.mkdir()
    kind.prepare(trial)
    return trial


def _log(trial: Path) -> str:
    return (trial / "log.txt").read_text(errors="replace").strip()


def _kinds(top: Path, address: str) -> list[Kind]:
    """Return everything that is killed; a finished run and its export are made once."""
    corpus = write_corpus(top / "corpus", n_images=IMAGES)
    made = Kind("training", lambda _: None, partial(_train, corpus), _results_of_run)
    run = _new_trial(made, top, "made")
    if _wait(_fork(made, run)) != 0:
        sys.exit(_log(run))
    judging = Kind("judging", partial(_copy_unjudged, run), partial(_train, corpus), _results_of_run)
    exporting = Kind("exporting", lambda _: None, partial(_export, run / "run"), _files_of("export"))
    if _wait(_fork(exporting, run)) != 0:
        sys.exit(_log(run))
    scoring = Kind("scoring", lambda _: None, partial(_score, run / "export", corpus), _files_of("scored"))
    listed = partial(_list_addresses, address)
    downloading = Kind("downloading", listed, _download, _files_of("photos/downloaded", but="manifest.jsonl"))
    damaged = Kind("training, last.ckpt damaged", made.prepare, made.run, made.results, _damage)
    return [made, damaged, judging, exporting, scoring, downloading]


def _train(corpus: Path, trial: Path) -> None:
    overrides = [
        *["model=llama4_tiny", "model.lora.dropout=0.1", "data=jsonl", f"data.path={corpus}", "split.held_out=[cleo]"],
        *["trainer.threads=1", "trainer.rows_per_batch=4", f"trainer.max_steps={STEPS}", "trainer.max_epochs=null"],
        *["trainer.val_every_steps=8", "trainer.save_every_steps=3", f"run_dir={trial / 'run'}", "resume=auto"],
    ]
    sys.argv = ["train.py", *overrides]
    run_entry(train.start, "config")


def _copy_unjudged(made: Path, trial: Path) -> None:
    shutil.copytree(made / "run", trial / "run")
    for name in ("metrics.json", "report.html", "tuned.json"):
        (trial / "run" / name).unlink(missing_ok=True)
    shutil.rmtree(trial / "run" / "predictions")


def _export(run: Path, trial: Path) -> None:
    to = trial / "export"
    sys.argv = ["export.py", f"run={run}", f"to={to}", f"overwrite={str(to.exists()).lower()}"]
    run_entry(export.main, "export")


def _score(detector: Path, corpus: Path, trial: Path) -> None:
    (trial / "scored").mkdir(exist_ok=True)
    output = trial / "scored" / "scored.jsonl"
    run_halspan(["score", "-d", str(detector), "-i", str(corpus), "-o", str(output), "--resume"])
    sys.exit(0)


def _list_addresses(address: str, trial: Path) -> None:
    text = {"text": "A picture.", "sentences": [], "generator": "g", "direction": "image_to_text"}
    lines = [json.dumps({"id": str(n), "image": f"{address}/{n}.png", **text}) for n in range(ADDRESSES)]
    (trial / "captions.jsonl").write_text("\n".join(lines) + "\n")


def _download(trial: Path) -> None:
    fetch.Downloader = partial(fetch.Downloader, allow_loopback=True)  # type: ignore[misc, assignment]
    run_halspan(["data", "download", str(trial / "captions.jsonl"), "--to", str(trial / "photos")])
    sys.exit(0)


def _results_of_run(trial: Path) -> dict[str, str]:
    """Return the digests of a run's weights, figures and predictions; its name and its times may differ."""
    run, digests = trial / "run", {}
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(run / name, weights_only=True)
        states = checkpoint["optimizer_states"][0]["state"].values()
        tensors = [*checkpoint["state_dict"].values(), *(value for state in states for value in state.values())]
        digests[name] = _digest(b"".join(tensor.numpy().tobytes() for tensor in tensors))
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["detector"]["name"], metrics["run"]
    digests["metrics.json"] = _digest(json.dumps(metrics).encode())
    for file in [run / "tuned.json", *run.glob("predictions/*")]:
        digests[file.name] = _digest(file.read_bytes())
    digests["left over"] = ", ".join(sorted(file.name for file in run.glob(".*")))
    return digests


def _files_of(folder: str, but: str = "") -> Callable[[Path], dict[str, str]]:
    """Return a function that gives the digest of each file in a folder of a trial."""

    def digests(trial: Path) -> dict[str, str]:
        top = trial / folder
        files = [file for file in top.rglob("*") if file.is_file() and file.name != but]
        return {file.relative_to(top).as_posix(): _digest(file.read_bytes()) for file in files}

    return digests


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _damage(trial: Path, draw: random.Random) -> None:
    """Cut last.ckpt off, or flip a bit of it, where the one before it is there and the run still needs it."""
    run = trial / "run"
    last = run / "last.ckpt"
    if (run / "metrics.json").exists() or not (last.exists() and (run / "previous.ckpt").exists()):
        return
    content = bytearray(last.read_bytes())
    place = draw.randrange(len(content))
    if draw.random() < 0.5:
        content = content[:place]
    else:
        content[place] ^= 1 << draw.randrange(8)
    last.write_bytes(content)


def _fill_disks(training: Kind, top: Path, draw: random.Random) -> dict[str, Outcome]:
    """Train on disks that fill up; give nothing where no disk can be mounted."""
    whole = _new_trial(training, top, "whole")
    _wait(_fork(training, whole))
    expected, outcome, began = training.results(whole), Outcome(), time.monotonic()
    for number in range(5):
        trial = _new_trial(training, top, f"disk{number}")
        kib = draw.randrange(200, 900)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(trial)]
        if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
            return {}
        try:
            status = _wait(_fork(training, trial))
            outcome.kills += status == 1
            outcome.too_late += status == 0
            subprocess.run(["mount", "-o", "remount,size=100m", str(trial)], check=True)
            status = _wait(_fork(training, trial))
            if status != 0 or training.results(trial) != expected:
                outcome.wrong.append(f"{trial.name} of {kib} KiB: status {status}: {_log(trial)[-300:]}")
        finally:
            subprocess.run(["umount", str(trial)], check=True)
        outcome.trials += 1
    outcome.seconds = time.monotonic() - began
    return {"training, disk full": outcome}


@contextmanager
def _web_server() -> Iterator[str]:
    """Serve small pictures on this machine, slowly; each number has its own."""

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(0.05)
            number = int(Path(self.path).stem)
            body = b"P6 2 1 255 " + bytes([number % 256, 1, 2, 3, 4, 5])
            self.send_response(200)
            self.send_header("Content-Type", "image/x-portable-pixmap")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    if (process := os.fork()) == 0:  # a thread of this process would be in the way of later forks
        server.serve_forever()
    server.socket.close()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _report(outcomes: dict[str, Outcome], arguments: argparse.Namespace) -> Sequence[str]:
    kills = sum(outcome.kills for outcome in outcomes.values())
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    lines = [
        f"`python benchmarks/faults.py --kills {arguments.kills} --seed {arguments.seed}` on {machine()}.",
        "",
        "| what was killed | kills | trials | it had ended before | differing results | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in outcomes.items():
        cells = (each.kills, each.trials, each.too_late, len(each.wrong), f"{each.seconds:.0f}")
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    if "training, disk full" not in outcomes:
        lines.append("| training, disk full | not possible here: no disk can be mounted | | | | |")
    hours = 1e4 * seconds / kills / 3600
    lines += ["", f"{seconds / kills:.1f} s a kill, so 10,000 of them would take {hours:.0f} hours."]
    lines += [f"Wrong: {name}: {what}" for name, each in outcomes.items() for what in each.wrong]
    return lines


_PRELOADED = fitting  # imported before any fork, which would otherwise take seconds for it
if __name__ == "__main__":
    main()
