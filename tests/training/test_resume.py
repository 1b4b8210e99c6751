"""Runs that are made longer, and runs that a signal ends: what they leave, and where they go on."""

import contextlib
import os
import resource
import signal

import pytest
import torch
from small_runs import run, small_overrides, write_corpus

from halspan.core.errors import ConfigError, ResourceError
from halspan.core.files import write_json
from halspan.training.interruption import Interrupted, Signals
from halspan.training.module import DetectorModule

STEPS = ["trainer.max_steps=null", "trainer.val_every_steps=null"]
SMALL = ["trainer.val_every_steps=4", "trainer.rows_per_pass=2"]


@pytest.fixture(scope="module", autouse=True)
def unjudged():
    """Leave out judging, which takes longer than training; a finished run has figures all the same."""
    import judge

    def leave_figures(*_, folder, **__):
        write_json(folder / "metrics.json", {"figure": 1.0})
        return {"figure": 1.0}

    with pytest.MonkeyPatch.context() as patch:
        for name, instead in (("score_tasks", lambda *_, **__: None), ("show_figures", lambda *_: None)):
            patch.setattr(judge, name, instead)
        patch.setattr(judge, "judge", leave_figures)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), n_images=24)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(*quick(corpus), *SMALL, f"run_dir={folder}")
    return folder


def quick(corpus):
    return [*small_overrides(corpus), "trainer.precision=32-true", "trainer.threads=1"]


def checkpoint(folder, name="last.ckpt"):
    return torch.load(folder / name, weights_only=True)


def assert_same(first, second):
    for name in ("last.ckpt", "best.ckpt"):
        one, two = checkpoint(first, name), checkpoint(second, name)
        assert one["global_step"] == two["global_step"]
        assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())


def test_a_finished_run_with_more_epochs_takes_the_steps_of_a_run_that_had_them_from_the_start(corpus, tmp_path):
    steady = [
        *quick(corpus),
        *STEPS,
        "trainer.rows_per_batch=8",
        "optimizer.schedule=constant",
        "optimizer.warmup_fraction=0",
    ]
    for name, epochs, resume in (("longer", 1, False), ("longer", 2, True), ("whole", 2, False)):
        run(*steady, f"trainer.max_epochs={epochs}", f"run_dir={tmp_path / name}", f"resume={resume}")
    assert checkpoint(tmp_path / "longer")["global_step"] == 6
    assert_same(tmp_path / "longer", tmp_path / "whole")


def test_a_longer_run_follows_the_schedule_of_its_new_length_at_once_and_says_so(corpus, tmp_path, caplog):
    overrides = [*quick(corpus), "trainer.log_every_steps=1", f"run_dir={tmp_path}"]
    run(*overrides, "trainer.max_steps=2")
    with caplog.at_level("INFO", logger="halspan"):
        run(*overrides, "trainer.max_steps=4", "resume=true")
    assert "was to have 2 optimiser steps and has 4 now: from here on the learning rate follows" in caplog.text
    header, first, *_ = (tmp_path / "logs/version_1/metrics.csv").read_text().splitlines()
    rate = float(first.split(",")[header.split(",").index("train/lr")])
    # cosine over 4 steps after ceil(0.05 * 4) = 1 step of warm-up: (1 + cos(pi / 3)) / 2 of the peak at step 2
    assert rate == pytest.approx(0.75 * 4e-3)


def test_fewer_steps_than_were_taken_are_refused_and_nothing_is_changed(corpus, whole):
    files = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"ask for 3 optimiser steps, but the run in .* has taken 6; ask for at"):
        run(*quick(corpus), *SMALL, f"run_dir={whole}", "resume=true", "trainer.max_steps=3")
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == files


def do_at(monkeypatch, step, action, *, hook="training_step"):
    """Do something in the middle of an optimiser step, or of the validation after it."""
    original = getattr(DetectorModule, hook)

    def act(module, *arguments):
        if module.trainer.global_step == step:
            action()
        return original(module, *arguments)

    monkeypatch.setattr(DetectorModule, hook, act)


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize(
    ("hook", "at", "step"), [("training_step", 1, 2), ("training_step", 3, 4), ("validation_step", 4, 4)]
)
def test_a_signal_ends_a_run_after_the_step_it_is_in_and_it_goes_on_to_the_same_weights(
    corpus, whole, tmp_path, monkeypatch, capfd, hook, at, step, number
):
    overrides = [*quick(corpus), *SMALL, f"run_dir={tmp_path}"]
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    do_at(monkeypatch, at, send(number), hook=hook)
    with pytest.raises(Interrupted) as end:
        run(*overrides, "trainer.save_every_steps=500")
    monkeypatch.undo()
    assert end.value.status == 128 + number
    assert end.value.how_to_go_on == "the same command with resume=true goes on from last.ckpt"
    assert "training ends after this step" in capfd.readouterr().err
    assert checkpoint(tmp_path)["global_step"] == step
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    run(*overrides, "resume=true")
    assert_same(tmp_path, whole)


def test_a_signal_in_the_last_step_ends_a_run_before_it_is_judged(corpus, whole, tmp_path, monkeypatch):
    overrides = [*quick(corpus), *SMALL, f"run_dir={tmp_path}"]
    do_at(monkeypatch, 5, send(signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(*overrides)
    assert_same(tmp_path, whole)
    assert not (tmp_path / "metrics.json").exists()
    run(*overrides, "resume=true")
    assert (tmp_path / "metrics.json").exists()


def test_a_second_ctrl_c_ends_a_run_at_once_and_a_second_sigterm_does_not(monkeypatch):
    monkeypatch.setattr("halspan.training.interruption._AGAIN_SECONDS", 0.0)
    with Signals() as signals:
        signals.wait()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as end:
            os.kill(os.getpid(), signal.SIGINT)
    assert end.value.status == 143


def test_a_signal_before_training_ends_it_at_once_and_what_cleans_up_is_not_disturbed():
    cleaned = []
    with Signals(), contextlib.ExitStack() as clean_up:
        clean_up.callback(cleaned.append, 1)
        clean_up.callback(os.kill, os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        clean_up.close()
    assert cleaned == [1]


@pytest.fixture
def limit():
    """Set limits of this process, for the time of a test."""
    before = {}

    def limit(kind, size):
        before.setdefault(kind, resource.getrlimit(kind))
        resource.setrlimit(kind, (size, before[kind][1]))

    yield limit
    for kind, limits in before.items():
        resource.setrlimit(kind, limits)


def test_a_full_disk_is_one_line_that_names_the_file_and_the_checkpoint_stays_whole(
    corpus, whole, tmp_path, monkeypatch, limit
):
    overrides = [*quick(corpus), *SMALL, f"run_dir={tmp_path}"]
    do_at(monkeypatch, 3, lambda: limit(resource.RLIMIT_FSIZE, 100_000))  # bytes; a checkpoint alone has more
    with pytest.raises(ResourceError, match=r"best.ckpt: cannot be written: .* the same command with resume=tr") as end:
        run(*overrides)
    monkeypatch.undo()
    limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    assert "\n" not in str(end.value)
    assert checkpoint(tmp_path)["global_step"] == 2
    assert not list(tmp_path.glob(".*"))
    run(*overrides, "resume=true")
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 50), lambda: bytearray(1 << 60)])
def test_too_little_memory_is_one_line_that_says_what_to_lower(corpus, tmp_path, monkeypatch, allocate):
    do_at(monkeypatch, 3, allocate)
    with pytest.raises(
        ResourceError, match=r"^the memory of this machine does not suffice \(.*\); lower trainer."
    ) as end:
        run(*quick(corpus), f"run_dir={tmp_path}")
    assert "\n" not in str(end.value)
    assert checkpoint(tmp_path)["global_step"] == 2
