"""Runs in processes of their own that real signals end: what they say, how they exit, and where they go on."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from small_runs import ROOT, figures, run, small_overrides

pytestmark = pytest.mark.slow  # test_resume.py has signals inside a process

SLURM = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_LOCALID": "0"}
SLURM |= {"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_NODELIST": "localhost", "SLURM_NTASKS_PER_NODE": "1"}


def overrides(corpus):
    return [*small_overrides(corpus), "trainer.max_steps=30", "trainer.save_every_steps=500"]


def start(*arguments, script="train.py", before=(), **environment):
    return subprocess.Popen(
        [*before, sys.executable, ROOT / script, *arguments],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process, number, *, when, group=False):
    """Send a signal when something has happened; gives exit status and standard error."""
    while not when():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    if group:  # as a terminal, `timeout` and SLURM do
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, err.splitlines()[-1]


def trains(folder):
    """Return whether the first step of a run was logged."""
    return lambda: any(folder.glob("logs/version_0/metrics.csv"))


def step(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["global_step"]


def test_sigterm_ends_training_with_a_checkpoint_and_its_status_and_the_run_goes_on_bit_by_bit(corpus, tmp_path):
    ended, whole = tmp_path / "ended", tmp_path / "whole"
    process = start(*overrides(corpus), f"run_dir={ended}")
    status, line = end(process, signal.SIGTERM, when=trains(ended))
    assert status == 143
    assert line == "interrupted by SIGTERM; the same command with resume=true continues from last.ckpt"
    assert 0 < step(ended) < 30
    run(*overrides(corpus), f"run_dir={ended}", "resume=true")
    run(*overrides(corpus), f"run_dir={whole}")
    one, two = (torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (ended, whole))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert figures(ended) == figures(whole)


def test_ctrl_c_ends_training_also_where_the_shell_had_it_ignored(corpus, tmp_path):
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    process = start(*overrides(corpus), f"run_dir={tmp_path}", before=ignoring)
    status, line = end(process, signal.SIGINT, when=trains(tmp_path))
    assert (status, line.split(";")[0]) == (130, "interrupted by Ctrl-C")
    assert step(tmp_path) > 0


def test_sigusr1_under_slurm_writes_last_ckpt_alone_and_puts_no_job_back(corpus, tmp_path):
    requeue = tmp_path / "bin" / "scontrol"
    requeue.parent.mkdir()
    requeue.write_text(f"#!/bin/sh\ntouch {tmp_path}/requeued\n")
    requeue.chmod(0o755)
    path = f"{requeue.parent}{os.pathsep}{os.environ['PATH']}"
    process = start(*overrides(corpus), f"run_dir={tmp_path / 'run'}", PATH=path, **SLURM)
    status, line = end(process, signal.SIGUSR1, when=trains(tmp_path / "run"))
    assert (status, line.split(";")[0]) == (138, "interrupted by SIGUSR1")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "last.ckpt", "logs", "split.json"}
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_processes_that_read_data_too_ends_training_all_the_same(corpus, tmp_path, number):
    process = start(*overrides(corpus), "trainer.workers=2", f"run_dir={tmp_path}")
    status, line = end(process, number, when=trains(tmp_path), group=True)
    assert (status, line.split("; ")[1]) == (128 + number, "the same command with resume=true continues from last.ckpt")
    assert step(tmp_path) > 0


@pytest.mark.parametrize("group", [False, True])
def test_a_signal_ends_all_processes_that_train_together(corpus, tmp_path, group):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.workers=0"]
    process = start(*ddp, *overrides(corpus), f"run_dir={tmp_path}")
    status, line = end(process, signal.SIGTERM, when=trains(tmp_path), group=group)
    assert (status, line.split(";")[0]) == (143, "[process 1 of 2] interrupted by SIGTERM")
    assert step(tmp_path) > 0
    assert not any(str(tmp_path) in command for command in running())


def running():
    """List the command lines of all processes."""
    import psutil

    return [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]


def test_a_signal_while_a_run_is_judged_says_how_to_go_on(corpus, tmp_path):
    folder = tmp_path / "run"
    process = start(*overrides(corpus), "trainer.max_steps=2", f"run_dir={folder}")
    status, line = end(process, signal.SIGTERM, when=(folder / "last.ckpt").exists)
    assert (status, line.split("; ")[1]) == (143, "the same command with resume=true continues from last.ckpt")
    assert not (folder / "metrics.json").exists()
    run(*overrides(corpus), "trainer.max_steps=2", f"run_dir={folder}", "resume=true")
    process = start(f"run={folder}", script="evaluate.py")
    status, line = end(process, signal.SIGTERM, when=(folder / ".lock").exists)
    assert (status, line) == (143, "interrupted by SIGTERM; the same command starts again")


def test_two_processes_do_not_write_into_one_run(corpus, tmp_path):
    first = start(*overrides(corpus), f"run_dir={tmp_path}", "trainer.max_steps=100000")  # it is killed
    while not trains(tmp_path)():
        time.sleep(0.02)
    for arguments in ([], ["overwrite=true"], ["resume=true"]):
        second = start(*overrides(corpus), f"run_dir={tmp_path}", *arguments)
        _, err = second.communicate(timeout=120)
        assert (second.returncode, err.count("\n")) == (2, 1)
        assert err.startswith(f"error: run_dir: another process is training or judging in {tmp_path}; wait until")
    first.kill()
    first.communicate()
