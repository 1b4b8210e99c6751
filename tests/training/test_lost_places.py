"""Disks that fill, folders that cannot be written any more, and storage that hangs: one line each, and runs go on."""

import multiprocessing
import shutil
import subprocess
import time

import pytest
import torch
from small_runs import run, small_overrides, unjudged_runs

from halspan.core.errors import ResourceError
from halspan.training import datamodule
from halspan.training.encoding import EncodeRows
from halspan.training.module import DetectorModule


@pytest.fixture(scope="module", autouse=True)
def unjudged():
    with unjudged_runs():
        yield


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(*small_overrides(corpus), f"run_dir={folder}")
    return folder


def assert_goes_on(corpus, whole, folder):
    run(*small_overrides(corpus), f"run_dir={folder}", "resume=auto")
    one, two = (torch.load(each / "last.ckpt", weights_only=True)["state_dict"] for each in (folder, whole))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def system(*command):
    if shutil.which(command[0]) is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"{command[0]} is not possible here")


def before_step(monkeypatch, step, action):
    original = DetectorModule.training_step

    def act(module, *arguments):
        if module.trainer.global_step == step:
            action()
        return original(module, *arguments)

    monkeypatch.setattr(DetectorModule, "training_step", act)


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of its own, with room for two checkpoints and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    system("mount", "-t", "tmpfs", "-o", "size=900k", "none", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_is_named_and_what_was_written_stays_whole(corpus, whole, small_disk):
    folder = small_disk / "run"
    with pytest.raises(ResourceError, match=r"ckpt: cannot be written: the disk is full; make room there, then the"):
        run(*small_overrides(corpus), f"run_dir={folder}", "resume=auto")
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] > 0
    assert not list(folder.glob(".*"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    assert_goes_on(corpus, whole, folder)


def test_a_folder_that_cannot_be_written_any_more_is_named(corpus, whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    try:
        before_step(monkeypatch, 3, lambda: system("chattr", "+i", str(folder)))
        with pytest.raises(ResourceError) as end:
            run(*small_overrides(corpus), f"run_dir={folder}")
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=False, capture_output=True)
    monkeypatch.undo()
    said = (
        "cannot be written: it may not be written any more; mend that, then the same command with resume=true continues"
    )
    assert str(end.value) == f"{folder}: {said}"
    assert_goes_on(corpus, whole, folder)


def test_a_folder_that_is_gone_is_named(corpus, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    before_step(monkeypatch, 3, lambda: folder.rename(tmp_path / "elsewhere"))
    with pytest.raises(ResourceError, match=rf"{folder}: cannot be written: its folder is gone; mend that, then the"):
        run(*small_overrides(corpus), f"run_dir={folder}")


def test_a_process_that_reads_data_and_hangs_ends_training_in_the_time_that_is_stated(
    corpus, whole, tmp_path, monkeypatch
):
    encode = EncodeRows.__call__

    def hang(encoder, rows, *, tokens_per_pass):
        if multiprocessing.parent_process() is not None and (tmp_path / "run" / "last.ckpt").exists():
            time.sleep(600)
        return encode(encoder, rows, tokens_per_pass=tokens_per_pass)

    monkeypatch.setattr(EncodeRows, "__call__", hang)
    monkeypatch.setattr(datamodule, "WORKER_SECONDS", 3)
    overrides = [*small_overrides(corpus), "trainer.max_steps=40", f"run_dir={tmp_path / 'run'}"]
    start = time.monotonic()
    with pytest.raises(ResourceError, match=r"^a process that reads data gave nothing for 3 s: storage may hang, or"):
        run(*overrides, "trainer.workers=1")
    assert time.monotonic() - start < 60
    for worker in multiprocessing.active_children():
        worker.join(timeout=5)
    assert not multiprocessing.active_children()
