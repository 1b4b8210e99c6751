"""Several processes train and judge like one, whatever started them, and none waits for one that has died."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from small_runs import ROOT, figures, run, small_overrides

from halspan.core.errors import ConfigError
from halspan.core.process import find_launcher, is_first_process, process_count, process_rank, speaker
from halspan.training.processes.group import Group, together
from halspan.training.run_spec import TrainerSpec

pytestmark = pytest.mark.usefixtures("without_plots")

EXACT = ["model.lora.dropout=0", "trainer.precision=32-true", "trainer.rows_per_batch=3", "trainer.val_every_steps=4"]
TOGETHER = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.workers=0"]


def start(*overrides, before=(), **environment):
    return subprocess.Popen(
        [*(before or [sys.executable]), ROOT / "train.py", *TOGETHER, *overrides],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(*processes):
    said = [process.communicate(timeout=250)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return said


def checkpoint(folder, name="last.ckpt"):
    return torch.load(folder / name, weights_only=True)


def is_same(first, second):
    one, two = checkpoint(first)["state_dict"], checkpoint(second)["state_dict"]
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def curves(folder, name):
    rows = csv.DictReader((folder / "logs/version_0/metrics.csv").open(newline=""))
    return [float(row[name]) for row in rows if row[name]]


def assert_trained_alike(one, other):
    """Compare two runs of the same batches within float32 noise.

    Where a gradient is nearly 0, AdamW's first steps make a step of its sign, so that rounding moves single weights by
    a part of the learning rate, here 0.004. Gradients have no such places.
    """
    first, second = (
        torch.cat([entry["exp_avg"].flatten() for entry in checkpoint(folder)["optimizer_states"][0]["state"].values()])
        for folder in (one, other)
    )
    assert float((first - second).abs().max()) < 1e-6
    first, second = (
        torch.cat([value.flatten() for value in checkpoint(folder)["state_dict"].values()]) for folder in (one, other)
    )
    assert float((first - second).abs().quantile(0.99)) < 1e-6
    assert float((first - second).abs().max()) < 4e-4
    for name in ("train/loss", "val/loss"):
        assert curves(one, name) == pytest.approx(curves(other, name), rel=1e-5)


def judged_by_one(corpus, folder, target):
    """Judge a run again in this process alone; give the files of predictions before and after."""
    shutil.copytree(folder, target)
    (target / "metrics.json").unlink()
    before = {path.name: path.read_bytes() for path in target.glob("predictions/*.jsonl")}
    run(*small_overrides(corpus), *EXACT, f"run_dir={target}", "resume=true")
    assert len(before) == 3
    return before, {path.name: path.read_bytes() for path in target.glob("predictions/*.jsonl")}


@pytest.fixture(scope="module")
def one(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run(*small_overrides(corpus), *EXACT, f"run_dir={folder}")
    return folder


def test_two_processes_train_like_one_and_judge_the_same_weights_exactly_like_one(corpus, one, tmp_path):
    (said,) = finish(start(*small_overrides(corpus), *EXACT, f"run_dir={tmp_path / 'two'}"))
    assert "[process 1 of 2] " in said
    assert_trained_alike(one, tmp_path / "two")
    before, after = judged_by_one(corpus, tmp_path / "two", tmp_path / "again")
    assert before == after
    assert figures(tmp_path / "two") == figures(tmp_path / "again")


@pytest.mark.slow
def test_three_processes_of_torchrun_train_like_one_and_judge_exactly_like_one(corpus, one, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    same = [*small_overrides(corpus), *EXACT, "trainer.devices=3", f"run_dir={tmp_path / 'three'}", "resume=auto"]
    finish(start(*same, before=launch))
    assert_trained_alike(one, tmp_path / "three")
    before, after = judged_by_one(corpus, tmp_path / "three", tmp_path / "again")
    assert before == after
    (tmp_path / "three" / "metrics.json").unlink()  # all three judge weights that are there
    finish(start(*same, before=launch))
    assert figures(tmp_path / "three") == figures(tmp_path / "again")
    finish(start(*same, before=launch))  # nothing is left to do


def slurm(rank, count, nodes=1):
    """Return the variables that srun sets for a task."""
    a_node = count // nodes
    return {
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank % a_node),
        "SLURM_NODEID": str(rank // a_node),
        "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS_PER_NODE": str(a_node),
        "SLURM_NODELIST": "localhost",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NAME": "train",
    }


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_tasks_of_slurm_train_like_one_on_one_machine_and_on_two(corpus, one, tmp_path, nodes):
    shape = [f"trainer.devices={2 // nodes}", f"trainer.nodes={nodes}", f"run_dir={tmp_path}"]
    finish(*(start(*small_overrides(corpus), *EXACT, *shape, **slurm(rank, 2, nodes)) for rank in range(2)))
    assert_trained_alike(one, tmp_path)


LONG = ["trainer.rows_per_batch=3", "trainer.max_steps=40", "trainer.save_every_steps=3"]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """Return a run of two processes with dropout that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(*small_overrides(corpus), *LONG, f"run_dir={folder}"))
    return folder


def harm_one_of_two(corpus, folder, number, who):
    """Send a signal to one of two processes in the middle of training; give what they say."""
    process = start(*small_overrides(corpus), *LONG, f"run_dir={folder}", "resume=auto")
    while not (folder / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    (second,) = [each for each in psutil.Process(process.pid).children() if str(folder) in " ".join(each.cmdline())]
    harmed, other = (second, psutil.Process(process.pid)) if who == 2 else (psutil.Process(process.pid), second)
    harmed.send_signal(number)
    began = time.monotonic()
    while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < began + 60
        time.sleep(0.1)
    if number == signal.SIGSTOP:
        harmed.kill()
    return process.communicate(timeout=60)[1]


@pytest.mark.slow
@pytest.mark.parametrize("who", [1, 2])
def test_where_a_process_is_killed_the_other_ends_within_a_minute_and_the_same_command_goes_on(
    corpus, whole, tmp_path, who
):
    said = harm_one_of_two(corpus, tmp_path, signal.SIGKILL, who)
    assert f"[process {3 - who} of 2] error: another process of this job has ended or does not answer (" in said
    assert said.rstrip().endswith("; the same command continues")
    assert checkpoint(tmp_path)["global_step"] < 40
    assert not (tmp_path / "metrics.json").exists()
    finish(start(*small_overrides(corpus), *LONG, f"run_dir={tmp_path}", "resume=auto"))
    assert is_same(tmp_path, whole)
    assert figures(tmp_path) == figures(whole)


@pytest.mark.slow
@pytest.mark.parametrize("who", [1, 2])
def test_where_a_process_falls_silent_as_on_a_lost_machine_the_other_ends_within_a_minute(corpus, tmp_path, who):
    said = harm_one_of_two(corpus, tmp_path, signal.SIGSTOP, who)
    silent = "the first process" if who == 1 else "process 2 ("
    assert f"[process {3 - who} of 2] {silent}" in said
    assert (
        "has given no sign of life for 30 s, so this one ends, too; the same command continues from last.ckpt" in said
    )


@pytest.mark.slow
def test_what_ends_the_first_process_before_training_ends_the_others(corpus, one, tmp_path):
    shutil.copytree(one, tmp_path / "run")
    process = start(*small_overrides(corpus), *EXACT, f"run_dir={tmp_path / 'run'}")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "[process 1 of 2] error: run_dir: " in said
    assert "holds a finished run; add resume=true" in said
    assert "process 2 of 2] error" not in said


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", *slurm(0, 1)):
        monkeypatch.delenv(name, raising=False)


TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "title", "rank", "count"),
    [
        ({}, None, 0, 1),
        (TORCHRUN, "torchrun", 3, 4),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, None, 0, 1),
        (slurm(1, 2), "SLURM", 1, 2),
        (slurm(0, 1), None, 0, 1),
        (slurm(0, 4) | {"SLURM_JOB_NAME": "bash"}, None, 0, 1),  # a shell in an allocation
        (slurm(1, 2) | TORCHRUN, "torchrun", 3, 4),  # torchrun in a job of SLURM
    ],
)
def test_a_process_finds_its_place_by_what_started_it(monkeypatch, environment, title, rank, count):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launcher = find_launcher()
    assert (launcher and launcher.title, process_rank(), process_count()) == (title, rank, count)
    assert is_first_process() == (rank == 0)
    assert speaker() == ("" if count == 1 else f"[process {rank + 1} of {count}] ")


def trainer(**changes) -> TrainerSpec:
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "ddp",
        "precision": "32-true",
        "threads": 1,
        "workers": 0,
        "rows_per_batch": 8,
        "tokens_per_pass": "auto",
        "captions_per_row": 1,
        "max_steps": 1,
        "max_epochs": None,
        "val_every_steps": None,
        "patience": None,
        "save_every_steps": 1,
        "log_every_steps": 1,
        "compile": False,
        "profile": False,
    }
    return TrainerSpec(**settings | changes)


def test_machines_without_processes_on_them_are_refused():
    with pytest.raises(
        ConfigError, match=r"trainer.nodes: 2 machines, but nothing has started .* use torchrun or srun"
    ):
        together(trainer(nodes=2), to_go_on="").__enter__()


@pytest.mark.parametrize("devices", [1, 2])
def test_another_number_of_processes_than_devices_is_refused(monkeypatch, devices):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"torchrun has started 4 processes, but .* asks for {devices}; make the"):
        together(trainer(devices=devices), to_go_on="").__enter__()


def test_machines_count_as_devices_do():
    with pytest.raises(ValueError, match="strategy 'auto' drives one device, not 2"):
        trainer(nodes=2, strategy="auto")
    with pytest.raises(ValueError, match="rows_per_batch 5 leaves some of 6 devices without a row"):
        trainer(nodes=3, devices=2, rows_per_batch=5)


def test_a_process_alone_decides_and_gathers_for_itself():
    assert Group().from_first(lambda: 3) == 3
    assert Group().gather("x") == ["x"]
