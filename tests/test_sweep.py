"""Sweeps: one run directory for each job, one table and `sweep.json` for all, whatever launches the jobs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from small_runs import ROOT, small_overrides

from halspan.app import sweep as sweep_app
from halspan.app import train
from halspan.app.configuration import run_names
from halspan.app.entry import run_entry

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Run train.py -m in this process and in an empty folder; give the exit status and what sweep.json holds."""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # pytest has its own
    monkeypatch.setenv("WANDB_SILENT", "true")

    def run(*arguments: str) -> tuple[int, dict]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), "-m", *arguments])
        with pytest.raises(SystemExit) as exit_:
            run_entry(train.start, "config")
        (file,) = tmp_path.glob("checkpoints/*/sweep.json")
        return exit_.value.code, json.loads(file.read_text())

    return run


def short(corpus: Path) -> list[str]:
    return [*small_overrides(corpus), "trainer.max_steps=1"]


def test_in_a_sweep_a_run_is_named_by_its_overrides_too():

    assert run_names.name_run("shapes", RunMode.RUN, "seed=1") == "shapes"
    assert (
        run_names.name_run("shapes", RunMode.MULTIRUN, "seed=1-trainer.max_steps=20")
        == "shapes-seed=1-trainer.max_steps=20"
    )
    assert run_names.name_run("shapes", RunMode.MULTIRUN, "split.held_out=['a b',c]") == "shapes-split.held_out=ab,c"
    assert run_names.name_run("shapes", RunMode.MULTIRUN, "data.path=../a") == "shapes-data.path=..%2Fa"


def test_a_long_name_stays_a_file_name_and_its_own():

    first, second = (run_names.name_run("shapes", RunMode.MULTIRUN, f"x={'a' * 300}{end}") for end in "bc")
    assert len(first) < 200
    assert first != second


def test_a_single_run_keeps_its_arguments():

    assert sweep_app.prepare_arguments(["seed=1", "trainer=cpu"]) == ["seed=1", "trainer=cpu"]


def test_leave_one_out_becomes_one_value_of_held_out_for_each_generator(corpus):

    arguments = sweep_app.prepare_arguments(["-m", "split=leave_one_out", *small_overrides(corpus)[:4]])
    assert "split.held_out=[anna],[ben],[cleo],[paint]" in arguments
    assert "split=leave_one_out" not in arguments


def test_a_grid_leaves_one_run_directory_for_each_job_and_a_summary(sweep, corpus, tmp_path):
    status, result = sweep("seed=1,2", *short(corpus))
    assert status == 0
    folders = [Path(run["run_dir"]) for run in result["runs"]]
    assert len(folders) == len(set(folders)) == 2
    figures = []
    for folder, seed in zip(folders, (1, 2), strict=True):
        assert folder.name.startswith("jsonl-llama4_tiny-")
        assert OmegaConf.load(tmp_path / folder / "config.yaml").seed == seed
        metrics = json.loads((tmp_path / folder / "metrics.json").read_text())
        figures.append(metrics["test_heldout"]["sentence"]["auroc"]["macro"])
    summary = result["summary"]["test_heldout.sentence.auroc.macro"]
    assert summary["mean"] == pytest.approx(sum(figures) / 2)
    assert summary["n"] == 2


def test_leave_one_out_leaves_one_run_for_each_generator(sweep, corpus, tmp_path):
    overrides = [override for override in short(corpus) if not override.startswith("split.")]
    status, result = sweep("split=leave_one_out", *overrides)
    assert status == 0
    held_out = []
    for run in result["runs"]:
        metrics = json.loads((tmp_path / run["run_dir"] / "metrics.json").read_text())
        held_out += metrics["test_heldout"]["sentence"]["auroc"]["by_generator"]
    assert held_out == ["anna", "ben", "cleo", "paint"]


def test_each_job_has_its_own_wandb_run(sweep, corpus, tmp_path):
    status, result = sweep("seed=1,2", *short(corpus), "logger=wandb", "logger.mode=offline")
    assert status == 0
    ids = {(tmp_path / run["run_dir"] / "wandb_id.txt").read_text() for run in result["runs"]}
    assert len(ids) == 2
    for run in result["runs"]:
        assert len(list((tmp_path / run["run_dir"]).glob("wandb/offline-run-*"))) == 1


def test_a_job_that_fails_is_reported_and_the_others_go_on(sweep, corpus, tmp_path):
    overrides = [override for override in short(corpus) if not override.startswith("split.")]
    status, result = sweep("split.held_out=[nobody],[cleo]", *overrides)
    assert status == 1
    failed, done = result["runs"]
    assert "'nobody' matches no generator" in failed["error"]
    assert done["error"] is None
    assert done["figures"]["test_heldout.sentence.auroc.macro"] is not None


def test_finished_jobs_are_kept_when_a_sweep_is_resumed(sweep, corpus, tmp_path):
    _, result = sweep("seed=1,2", *short(corpus))
    written = [(tmp_path / run["run_dir"] / "best.ckpt").stat().st_mtime_ns for run in result["runs"]]
    status, again = sweep("seed=1,2", *short(corpus), "resume=true")
    assert status == 0
    assert again["summary"] == result["summary"]
    assert [(tmp_path / run["run_dir"] / "best.ckpt").stat().st_mtime_ns for run in again["runs"]] == written


LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "seed=1,2"],
    "optuna": [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=maximize",
        "optimizer.lora_lr=interval(0.0001,0.001)",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_other_launchers_and_sweepers_leave_the_same(corpus, tmp_path, name):
    subprocess.run(
        [sys.executable, ROOT / "train.py", "-m", *short(corpus), *LAUNCHERS[name]],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=True,
        timeout=280,
    )
    (file,) = tmp_path.glob("checkpoints/*/sweep.json")
    runs = json.loads(file.read_text())["runs"]
    assert len(runs) == 2
    for run in runs:
        assert run["error"] is None
        assert (tmp_path / run["run_dir"] / "metrics.json").exists()
    if name == "optuna":
        assert "best_value" in (file.parent / "optimization_results.yaml").read_text()
