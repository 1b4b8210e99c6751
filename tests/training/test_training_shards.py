"""Training with the decoder's layers in shards (`trainer=fsdp`): what it leaves is what one process leaves."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from small_runs import ROOT, figures, run, small_overrides

from halspan.testing.small_corpora import write_corpus

SHARDS = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.threads=1", "trainer.workers=0"]
# of three rows, one process has two and the other one, and they take different numbers of passes
EXACT = [
    *("model.lora.dropout=0", "trainer.precision=32-true", "trainer.rows_per_batch=3", "trainer.tokens_per_pass=150"),
    *("judge.captions=2", "trainer.val_every_steps=3", "optimizer.schedule=constant", "optimizer.warmup_fraction=0"),
]
KINDS = {
    "nf4": ["model.quantize=nf4", "model.lora.targets=[language,experts]", "model.lora.rslora=true"],
    "bf16": ["model.dtype=bfloat16", "model.lora.targets=[language,experts]", "model.lora.rslora=true"],
}
# relative to the norm of the gradients: other sums of the same numbers, in float32 and in bf16
NOISE = {"nf4": 3e-6, "bf16": 0.05}  # ten times what was found

pytestmark = pytest.mark.timeout(900)


def command(script: Sequence[str], *arguments: Any) -> str:
    """Run a command in a process of its own, which may start others."""
    done = subprocess.run(
        [sys.executable, *script, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def train(corpus: Path, kind: str, folder: Path, *more: str) -> str:
    return command(["train.py"], *small_overrides(corpus), *EXACT, *KINDS[kind], *more, f"run_dir={folder}")


def checkpoint(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    read: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return read


def gradients(folder: Path) -> dict[int, torch.Tensor]:
    """Return AdamW's running mean of gradients: weights themselves amplify rounding where a gradient is nearly 0."""
    state = checkpoint(folder)["optimizer_states"][0]["state"]
    return {index: entry["exp_avg"] for index, entry in state.items()}


def difference(first: Path, second: Path) -> float:
    """Return the difference of the gradients of two runs, relative to their norm."""
    one, two = gradients(first), gradients(second)
    assert one.keys() == two.keys()
    squares = [((one[name] - two[name]).square().sum(), one[name].square().sum()) for name in one]
    difference, norm = (float(torch.stack(column).sum().sqrt()) for column in zip(*squares, strict=True))
    return difference / norm


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no group of processes behind, which a run in this process makes."""
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    assert not dist.is_initialized()


@pytest.mark.usefixtures("alone", "without_plots")
def test_a_run_of_one_process_in_shards_is_that_of_one_process_to_the_bit(corpus, tmp_path):
    steady = [*small_overrides(corpus), *EXACT, *KINDS["nf4"], "trainer.max_steps=2", "trainer.val_every_steps=2"]
    run(*steady, f"run_dir={tmp_path / 'one'}")
    run(*steady, *SHARDS, "trainer.devices=1", f"run_dir={tmp_path / 'shards'}")
    one, shards = (checkpoint(tmp_path / name)["state_dict"] for name in ("one", "shards"))
    assert one.keys() == shards.keys()
    assert all(one[name].equal(shards[name]) for name in one)
    assert figures(tmp_path / "one") == figures(tmp_path / "shards")


@pytest.fixture(scope="module", params=KINDS)
def runs(request, tmp_path_factory) -> tuple[str, Path]:
    """Train the same run in one process and in shards, stop it in shards, and go on in shards and in one process."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    corpus = write_corpus(folder / "corpus", n_images=8)
    train(corpus, kind, folder / "one", "trainer.max_steps=6")
    train(corpus, kind, folder / "shards", *SHARDS, "trainer.max_steps=6")
    train(corpus, kind, folder / "in shards", *SHARDS, "trainer.max_steps=4")
    shutil.copytree(folder / "in shards", folder / "in one")
    train(corpus, kind, folder / "in shards", *SHARDS, "trainer.max_steps=6", "resume=true")
    train(corpus, kind, folder / "in one", "trainer.max_steps=6", "resume=true")
    return kind, folder


@pytest.mark.slow
def test_a_run_in_shards_is_that_of_one_process(runs):
    kind, folder = runs
    assert difference(folder / "one", folder / "shards") < NOISE[kind]
    one, shards = (checkpoint(folder / name) for name in ("one", "shards"))
    assert one["state_dict"].keys() == shards["state_dict"].keys()
    assert {name: value.shape for name, value in one["state_dict"].items()} == {
        name: value.shape for name, value in shards["state_dict"].items()
    }
    assert (folder / "one/last.ckpt").stat().st_size == (folder / "shards/last.ckpt").stat().st_size
    first, second = (figures(folder / name)["test_heldout"] for name in ("one", "shards"))
    assert first["n"] == second["n"]
    assert second["sentence"]["brier"] == pytest.approx(first["sentence"]["brier"], abs=0.02)


@pytest.mark.slow
def test_a_resumed_run_in_shards_is_that_which_was_never_stopped(runs):
    _, folder = runs
    for name in ("last.ckpt", "best.ckpt"):
        whole, resumed = (checkpoint(folder / each, name)["state_dict"] for each in ("shards", "in shards"))
        assert all(whole[path].equal(resumed[path]) for path in whole)
    assert figures(folder / "shards") == figures(folder / "in shards")


@pytest.mark.slow
def test_a_run_in_shards_goes_on_in_one_process(runs):
    kind, folder = runs
    assert checkpoint(folder / "in one")["global_step"] == 6
    assert difference(folder / "shards", folder / "in one") < NOISE[kind]


@pytest.mark.slow
def test_a_run_in_shards_is_exported_and_scores(runs, tmp_path):
    _, folder = runs
    command(["export.py"], f"run={folder / 'shards'}", f"to={tmp_path / 'detector'}")
    (tmp_path / "records.jsonl").write_text(
        "".join(json.dumps({"image": f"images/{n}.png", "text": "The field is red."}) + "\n" for n in range(3))
    )
    out = tmp_path / "scores.jsonl"
    command(
        ["-c", "from halspan.cli import main; main()", "score"],
        *("-d", tmp_path / "detector", "-i", tmp_path / "records.jsonl", "-o", out, "--images", folder / "corpus"),
    )
    scored = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(scored) == 3
    assert all(0 < sentence["p_incorrect"] < 1 for record in scored for sentence in record["sentences"])
