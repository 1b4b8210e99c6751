import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import ROOT, figures, run, small_overrides

from halspan.core.errors import ResourceError
from halspan.models.detector import SpanDetector

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(*small_overrides(corpus), "trainer.val_every_steps=4", f"run_dir={folder}")
    return folder


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)["state_dict"]


def differences(first: dict[Any, torch.Tensor], second: dict[Any, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def gradients(folder: Path) -> dict[int, torch.Tensor]:
    """Return AdamW's running mean of gradients: weights themselves amplify rounding where a gradient is nearly 0."""
    state = torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    return {index: entry["exp_avg"] for index, entry in state.items()}


def test_checkpoints_hold_only_what_was_trained_and_load_as_weights_only(whole):
    checkpoint = torch.load(whole / "best.ckpt", weights_only=True)
    names = checkpoint["state_dict"]
    assert names
    assert all("lora_" in name or name.startswith(("detector.token_", "detector.sentence_")) for name in names)
    assert (whole / "best.ckpt").stat().st_size < 500_000  # all parameters are 1.9 MB, without the optimizer's state


def test_the_same_run_twice_gives_the_same_weights_and_figures(corpus, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        run(*small_overrides(corpus), "trainer.threads=2", "trainer.max_steps=3", f"run_dir={folder}")
    torch.set_num_threads(1)
    assert differences(weights(first), weights(second)) == 0
    assert figures(first) == figures(second)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 5])
def test_a_run_that_stops_resumes_to_the_same_weights_and_figures(corpus, whole, tmp_path, monkeypatch, stop_at):
    from halspan.training.module import DetectorModule

    class PulledOutError(Exception):
        pass

    step = DetectorModule.training_step

    def pull_out(module, batch, batch_idx):
        if module.trainer.global_step == stop_at:
            raise PulledOutError
        return step(module, batch, batch_idx)

    overrides = [*small_overrides(corpus), "trainer.val_every_steps=4", f"run_dir={tmp_path}"]
    monkeypatch.setattr(DetectorModule, "training_step", pull_out)
    with pytest.raises(PulledOutError):
        run(*overrides)
    monkeypatch.undo()
    run(*overrides, "resume=true")
    assert differences(weights(whole), weights(tmp_path)) == 0
    assert differences(weights(whole, "best.ckpt"), weights(tmp_path, "best.ckpt")) == 0
    assert figures(whole) == figures(tmp_path)


def test_kill_9_between_two_checkpoints_then_resume_ends_where_the_whole_run_ends(corpus, tmp_path):
    overrides = [*small_overrides(corpus), "trainer.max_steps=24", "trainer.save_every_steps=7"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *overrides, f"run_dir={killed}"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (killed / "last.ckpt").exists():
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert torch.load(killed / "last.ckpt", weights_only=True)["global_step"] < 24
    run(*overrides, f"run_dir={killed}", "resume=true")
    run(*overrides, f"run_dir={whole}")
    assert differences(weights(whole), weights(killed)) == 0
    assert figures(whole) == figures(killed)


def test_a_batch_in_several_passes_trains_like_the_batch_in_one(corpus, whole, tmp_path):
    steady = [*small_overrides(corpus), "model.lora.dropout=0", "trainer.precision=32-true"]
    run(*steady, f"run_dir={tmp_path / 'one'}")
    run(*steady, f"run_dir={tmp_path / 'three'}", "trainer.tokens_per_pass=200")
    assert differences(gradients(tmp_path / "one"), gradients(tmp_path / "three")) < 1e-6


def allocate_above(monkeypatch: pytest.MonkeyPatch, tokens: int) -> list[int]:
    """Let training passes of more tokens ask torch for more memory than there is; list the sizes of passes."""
    sizes: list[int] = []
    forward = SpanDetector.forward

    def crowded(self, batch):
        if self.training:
            sizes.append(batch.size)
            torch.empty(2**60 if batch.size > tokens else 0)
        return forward(self, batch)

    monkeypatch.setattr(SpanDetector, "forward", crowded)
    return sizes


def test_a_pass_that_runs_out_of_memory_is_halved_from_then_on(corpus, tmp_path, monkeypatch, caplog):
    steady = [*small_overrides(corpus), "model.lora.dropout=0", "trainer.precision=32-true"]
    run(*steady, f"run_dir={tmp_path / 'one'}")
    sizes = allocate_above(monkeypatch, 250)
    run(*steady, f"run_dir={tmp_path / 'halved'}")
    assert "memory was too short for a pass of " in caplog.text
    assert differences(gradients(tmp_path / "one"), gradients(tmp_path / "halved")) < 1e-6
    state = torch.load(tmp_path / "halved" / "last.ckpt", weights_only=True)["RowData"]
    assert state["tokens_per_pass"] <= 250
    assert [size for size in sizes if size > 250] == sizes[:1]  # no later step has to find out again
    assert halvings(tmp_path / "halved") == 1
    assert halvings(tmp_path / "one") == 0


def halvings(folder: Path) -> int:
    """Return how often a run has halved passes: its figures and its checkpoint must say the same."""
    saved = torch.load(folder / "last.ckpt", weights_only=True)["halvings"]
    assert json.loads((folder / "metrics.json").read_text())["run"]["halved_passes"] == saved
    return int(saved)


def test_a_resumed_run_goes_on_counting_halved_passes(corpus, tmp_path, monkeypatch, caplog):
    overrides = [*small_overrides(corpus), "trainer.rows_per_batch=8", f"run_dir={tmp_path}"]
    run(*overrides, "trainer.max_steps=2")
    whole = halvings(tmp_path)
    for steps, tokens in ((4, 500), (6, 300)):
        with monkeypatch.context() as patch:
            sizes = allocate_above(patch, tokens)
            run(*overrides, f"trainer.max_steps={steps}", "resume=true")
        assert len([size for size in sizes if size > tokens]) == 1, (steps, sizes)
    assert (whole, halvings(tmp_path)) == (0, 2)
    assert "because memory was too short (number of times: 2)" in caplog.text
    run(*overrides, "trainer.max_steps=6", "judge.captions=2", "resume=true")
    assert halvings(tmp_path) == 2  # nothing was left to train, and judging again forgets nothing


def test_a_line_that_does_not_fit_alone_ends_training_with_what_to_do(corpus, tmp_path, monkeypatch):
    allocate_above(monkeypatch, 10)
    with pytest.raises(ResourceError, match=r"lower trainer\.tokens_per_pass"):
        run(*small_overrides(corpus), f"run_dir={tmp_path / 'run'}")


@pytest.mark.parametrize("choice", ["trainer.precision=bf16-mixed", "model.lora=null"])
def test_mixed_precision_and_heads_alone_train_too(corpus, tmp_path, choice):
    run(*[override for override in small_overrides(corpus) if "dropout" not in override], choice, f"run_dir={tmp_path}")
    trained = weights(tmp_path)
    assert all(value.dtype == torch.float32 for value in trained.values())
    assert any("lora_" in name for name in trained) == (choice != "model.lora=null")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_that_are_spawned_read_data_as_the_training_process_does(corpus, tmp_path):
    """The loader takes the platform's way to start processes, which on macOS and Windows is to spawn them."""
    before = torch.multiprocessing.get_start_method()
    run(*small_overrides(corpus), f"run_dir={tmp_path / 'none'}")
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        run(*small_overrides(corpus), "trainer.workers=2", f"run_dir={tmp_path / 'two'}")
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert differences(weights(tmp_path / "none"), weights(tmp_path / "two")) == 0
    assert figures(tmp_path / "none") == figures(tmp_path / "two")
