"""`plan=true`, which reads neither data nor weights, and what training refuses by its plan before it reads weights."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT

from halspan.app import train as train_app
from halspan.app.entry import run_entry
from halspan.testing.small_corpora import write_corpus

MODELS = sorted(file.stem for file in (ROOT / "conf" / "model").glob("[!_]*.yaml"))


def train(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Run train.py in this process; give its exit status and what it wrote."""

    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # pytest has its own
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as exit_:
        run_entry(train_app.start, "config")
    return exit_.value.code, *capsys.readouterr()


def test_there_are_models():
    assert {"llama4_scout", "llama4_tiny", "shapes"} <= set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_plan_that_needs_neither_data_nor_weights(monkeypatch, capsys, model):
    monkeypatch.chdir(ROOT)  # where the shapes backbone lies
    before = set(Path("checkpoints").iterdir())
    status, shown, error = train(
        monkeypatch, capsys, "experiment=shapes", f"model={model}", "model.lora.r=1", "plan=true"
    )
    assert (status, error) == (0, "")
    for line in ("vision tower", "adapters", "AdamW moments", "peak", "The fewest operations", "CPU"):
        assert line in shown
    assert set(Path("checkpoints").iterdir()) == before


def test_a_plan_leaves_nothing_behind_and_asks_for_no_corpus(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, shown, error = train(monkeypatch, capsys, "data=jsonl", "model=llama4_tiny", "plan=true")
    assert (status, error) == (0, "")
    assert "peak" in shown
    assert not list(tmp_path.iterdir())


def test_a_plan_in_shards_lists_them_and_what_is_whole_and_the_fewest_devices(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    shards = ["model=llama4_tiny", "trainer=fsdp", "trainer.devices=3", "model.quantize=nf4"]
    status, shown, error = train(monkeypatch, capsys, "data=jsonl", *shards, "plan=true")
    assert (status, error) == (0, "")
    assert [int(device) for device in re.findall(r"shard of device (\d)", shown)] == [0, 1, 2]
    for part in ("embeddings", "vision tower", "vocabulary head"):
        assert f"whole on each: {part}" in shown
    assert "whole layers during a pass" in shown
    assert re.findall(r"(\d+)\.0 GiB +1 ", shown) == ["24", "48", "80", "141"]
    assert "Time of training" not in shown  # no device is there to be measured


def test_a_plan_says_how_long_training_takes(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    steps = ["trainer.max_steps=20", "trainer.rows_per_batch=8", "trainer.max_epochs=null"]
    _, shown, _ = train(monkeypatch, capsys, "data=jsonl", "model=llama4_tiny", "plan=true", *steps)
    assert "Time of training on 160 full rows" in shown
    assert "every token goes through 4 times its experts" in shown
    assert "shard of device" not in shown


@pytest.mark.slow
def test_without_a_gpu_the_plan_says_how_large_one_has_to_be(tmp_path):
    shown = subprocess.run(
        [sys.executable, ROOT / "train.py", "experiment=llama4_lora", "plan=true"],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    ).stdout
    assert "96,636,764,160" in shown  # experts: layers 48, experts 16, matrices 3, 5120 x 8192
    assert "no GPU is visible" in shown
    assert not list(tmp_path.iterdir())


TOO_LARGE = ["model=llama4_tiny", "trainer.tokens_per_pass=100000000000"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TOO_LARGE, "error: model: training needs "),
        (["model=llama4_tiny", "model.lora.targets=[q_proj]"], "error: model.lora.targets: 'q_proj' matches no"),
        (["model=llama4_tiny", "model.backbone=nobody/nothing"], "error: model.backbone: 'nobody/nothing': no folder"),
    ],
    ids=["memory", "targets", "backbone"],
)
def test_training_refuses_what_its_plan_forbids_before_it_reads_weights(
    monkeypatch, capsys, tmp_path, tmp_path_factory, arguments, message
):
    monkeypatch.chdir(tmp_path)
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), n_images=8)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    data = ["data=jsonl", f"data.path={corpus}", "split.held_out=[cleo]"]
    status, _, written = train(monkeypatch, capsys, *arguments, *data)
    assert status == 1
    (error,) = (line for line in written.splitlines() if line.startswith("error: "))
    assert error.startswith(message)
    assert not list(tmp_path.iterdir())
    if arguments is TOO_LARGE:
        assert ") with: trainer.tokens_per_pass=1024; plan=true shows all of it" in error
