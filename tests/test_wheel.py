"""What is installed from a wheel does the whole job in an empty folder, without the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
OFFLINE = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}


def call(*command, cwd):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Build an sdist, of that a wheel, and install it in an environment that has its dependencies alone."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (source,) = folder.glob("*.tar.gz")
    call(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--no-build-isolation", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, wheel, cwd=folder)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    assert Path(call(python, "-c", "import halspan; print(halspan.__file__)", cwd=folder).strip()).parents[1] == site
    return python.parent


def test_every_command_works_from_a_wheel_in_an_empty_folder(programs, tmp_path):
    halspan, run = programs / "halspan", tmp_path / "checkpoints" / "shapes"
    call(halspan, "train", "trainer.max_steps=20", "judge.captions=100", cwd=tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_heldout"]["n"]["captions"] == 100
    assert metrics["run"]["command"].startswith("halspan train ")
    call(halspan, "evaluate", f"run={run}", "judge.captions=50", cwd=tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())["test_heldout"]
    assert metrics["n"]["captions"] == 50
    call(halspan, "export", f"run={run}", "to=exports/shapes", cwd=tmp_path)
    said = run / "predictions" / "test_heldout.jsonl"
    call(halspan, "score", "-d", "exports/shapes", "-i", said, "-o", "scored.jsonl", cwd=tmp_path)
    call(halspan, "judge", "scored.jsonl", cwd=tmp_path)
    judged = json.loads((tmp_path / "scored" / "metrics.json").read_text())["all"]
    assert judged["sentence"]["auroc"]["macro"] == pytest.approx(metrics["sentence"]["auroc"]["macro"], abs=1e-6)
    assert judged["span"]["char"]["f1"] == pytest.approx(metrics["span"]["char"]["f1"], abs=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "data", "exports", "scored", "scored.jsonl"}


def test_the_script_of_the_repository_works_from_another_folder(tmp_path):
    small = ["trainer.max_steps=2", "judge.captions=10", "run_dir=here"]
    call(sys.executable, ROOT / "train.py", *small, cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "here"}
    assert (tmp_path / "here" / "report.html").is_file()
