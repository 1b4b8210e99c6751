"""Sweeps through submitit, as on a cluster: jobs with several processes, jobs that are killed, and jobs put back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from small_runs import ROOT, run, small_overrides

from halspan.app import sweep
from halspan.core.errors import ConfigError

SUBMITIT = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]


def start_sweep(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", "-m", *SUBMITIT, *arguments],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def runs_of(folder):
    (file,) = folder.glob("checkpoints/*/sweep.json")
    return json.loads(file.read_text())["runs"]


def process_of_job(folder, number, process):
    """Wait until a job trains, and return its process."""
    while True:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
        for file in folder.glob(f"checkpoints/*/jobs/{number:05d}.json"):
            job = folder / json.loads(file.read_text())["run_dir"]
            if (job / "last.ckpt").exists():
                tasks = [each for each in psutil.Process(process.pid).children(recursive=True) if is_task(each)]
                (task,) = [each for each in tasks if any(str(job) in file.path for file in each.open_files())]
                return task


def is_task(process):
    return "submitit.core._submit" in process.cmdline()


@pytest.mark.slow
def test_a_job_that_is_killed_leaves_the_others_is_named_and_the_same_command_does_what_is_left(corpus, tmp_path):
    long = ["trainer.max_steps=60", "trainer.save_every_steps=5", "resume=auto", "seed=1,2"]
    process = start_sweep(tmp_path, *small_overrides(corpus), *long)
    process_of_job(tmp_path, 0, process).kill()
    err = process.communicate(timeout=280)[1]
    assert process.returncode == 1
    failed, done = runs_of(tmp_path)
    assert failed["error"].startswith("the job ended before its run did: it was killed, or its machine was lost; its")
    assert Path(failed["error"].rpartition(" ")[2]).exists()
    assert (failed["status"], done["status"], done["error"]) == (1, 0, None)
    assert f"{failed['run_name']} failed: " in err
    written = (tmp_path / done["run_dir"] / "last.ckpt").stat().st_mtime_ns
    process = start_sweep(tmp_path, *small_overrides(corpus), *long)
    process.communicate(timeout=280)
    assert process.returncode == 0
    assert [run["error"] for run in runs_of(tmp_path)] == [None, None]
    assert (tmp_path / done["run_dir"] / "last.ckpt").stat().st_mtime_ns == written


@pytest.mark.slow
def test_submitit_puts_a_job_back_after_its_step_and_the_job_goes_on_to_the_same_weights(corpus, tmp_path):
    long = ["trainer.max_steps=60", "trainer.save_every_steps=20", "seed=3"]
    process = start_sweep(tmp_path, *small_overrides(corpus), *long, "resume=auto")
    process_of_job(tmp_path, 0, process).send_signal(signal.SIGUSR2)
    process.communicate(timeout=280)
    assert process.returncode == 0
    (job,) = runs_of(tmp_path)
    assert job["error"] is None
    (log,) = tmp_path.glob("checkpoints/*/.submitit/*/*_log.err")
    assert "SIGUSR2: training ends after this step" in log.read_text()
    assert log.read_text().count("continuing after optimizer step ") == 1
    run(*small_overrides(corpus), *long, f"run_dir={tmp_path / 'whole'}")
    one, two = (
        torch.load(each / "last.ckpt", weights_only=True) for each in (tmp_path / job["run_dir"], tmp_path / "whole")
    )
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())


@pytest.mark.slow
def test_a_job_has_a_process_for_each_device(corpus, tmp_path):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.workers=0", "seed=1,2"]
    process = start_sweep(tmp_path, *small_overrides(corpus), *ddp)
    err = process.communicate(timeout=280)[1]
    assert process.returncode == 0, err
    assert [run["error"] for run in runs_of(tmp_path)] == [None, None]
    logs = sorted(tmp_path.glob("checkpoints/*/.submitit/*/*_log.err"))
    assert len(logs) == 4
    assert sum("[process 1 of 2]" in log.read_text() for log in logs) == 2


def test_a_job_of_submitit_is_given_a_process_for_each_device_and_no_other_job_may_have_several(corpus):
    ddp = [
        *small_overrides(corpus),
        "trainer=ddp",
        "trainer.devices=4",
        "trainer.nodes=2",
        "trainer.rows_per_batch=8",
        "seed=1,2",
    ]
    arguments = sweep.prepare_arguments(["-m", *ddp, "hydra/launcher=submitit_slurm", "hydra.launcher.nodes=3"])
    added = {argument for argument in arguments if argument.startswith("hydra.launcher.")}
    assert added == {"hydra.launcher.nodes=3", "hydra.launcher.tasks_per_node=4", "hydra.launcher.gpus_per_node=4"}
    with pytest.raises(ConfigError, match=r"not possible in a sweep on this machine.*or let jobs have processes"):
        sweep.prepare_arguments(["-m", *ddp])
