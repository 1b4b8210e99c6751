"""The folder of a run: whether one may start there, what it deletes, and who may write."""

import subprocess
import sys

import pytest

from halspan.core.errors import ConfigError
from halspan.data.split.parts import PARTS
from halspan.training.rundir import RunDirectory

HOLD = """
import sys
from pathlib import Path
from halspan.training.rundir import RunDirectory
with RunDirectory(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path):
    """Make a folder in which a run has begun."""
    (tmp_path / "config.yaml").write_text("_target_: halspan.training.run_spec.RunSpec\nseed: 1\n")
    return RunDirectory(tmp_path)


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("left", "state"), [("metrics.json", "a finished run"), ("last.ckpt", "an unfinished run")])
def test_a_folder_with_a_run_is_refused_with_both_remedies(run, left, state):
    fill(run.path, left)
    with pytest.raises(ConfigError, match=f"{state}; add resume=true .* overwrite=true"):
        run.check(resume=False, overwrite=False)
    run.check(resume=True, overwrite=False)
    run.check(resume=False, overwrite=True)


def test_a_run_that_left_no_checkpoint_may_start_again(run):
    run.check(resume=False, overwrite=False)
    run.check(resume=True, overwrite=False)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="not both"):
        RunDirectory(tmp_path).check(resume=True, overwrite=True)


def test_there_must_be_a_run_to_go_on_with_unless_it_is_one_of_many(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(ConfigError, match="run holds no run to continue; leave resume=true out to begin one"):
        run.check(resume=True, overwrite=False)
    run.check(resume=True, overwrite=False, is_one_of_many=True)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "predictions/val.jsonl", "logs/version_0/metrics.csv"])
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True)])
def test_what_no_run_wrote_is_neither_written_over_nor_taken_for_a_run(tmp_path, name, flags):
    fill(tmp_path, name)
    with pytest.raises(ConfigError, match=rf"has no run in it, but holds {name[:14]}.*; choose another folder"):
        RunDirectory(tmp_path).check(resume=flags[0], overwrite=flags[1])


@pytest.mark.parametrize("name", ["logs/job-1.out", "wandb/run-1-abc/files", "predictions/mine.jsonl", "notes.txt"])
def test_other_files_do_not_keep_a_run_away_and_stay(tmp_path, name):
    fill(tmp_path, name)
    run = RunDirectory(tmp_path)
    run.check(resume=False, overwrite=True)
    run.prepare(overwrite=True)
    assert files(tmp_path) == {name}


def test_overwriting_deletes_what_runs_leave_and_nothing_else(run):
    own = ["split.json", "last.ckpt", "best.ckpt", "wandb_id.txt", ".last.ckpt.77.tmp"]
    figures = ["tuned.json", "metrics.json", "report.html", "table.md", "table.csv"]
    figures += [f"{folder}/{part}.jsonl" for folder in ("predictions", "baselines/bow") for part in PARTS[1:]]
    logs = ["logs/version_0/metrics.csv", "logs/version_1/hparams.yaml", "wandb/offline-run-2-abc/run.wandb"]
    foreign = [
        "notes.txt",
        "logs/job-1.out",
        "logs/version_0/mine.txt",
        "predictions/mine.jsonl",
        "wandb/run-1-x/files",
    ]
    fill(run.path, *own, *figures, *(f"evaluations/other/{name}" for name in figures), *logs, *foreign)
    run.wandb_id.write_text("abc")
    (run.path / "wandb/latest-run").symlink_to("offline-run-2-abc")
    run.prepare(overwrite=True)
    assert files(run.path) == set(foreign)
    assert {path.name for path in run.path.iterdir()} == {"notes.txt", "logs", "predictions", "wandb"}
    assert not (run.path / "wandb/latest-run").is_symlink()


def test_going_on_deletes_what_a_killed_run_left_half_written_alone(run):
    fill(run.path, ".last.ckpt.77.tmp", "last.ckpt", "predictions/val.jsonl")
    run.prepare(overwrite=False)
    assert files(run.path) == {"config.yaml", "last.ckpt", "predictions/val.jsonl"}


def test_a_place_where_no_folder_can_be_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"), RunDirectory(tmp_path / "file" / "run").held():
        pass


def test_one_process_writes_at_a_time_and_a_killed_one_lets_go(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=r"run_dir: another process .* wait until it has ended, or"):
            RunDirectory(folder).held().__enter__()
        holder.kill()
    with RunDirectory(folder).held():
        fill(folder, "split.json")
    assert files(folder) == {"split.json"}


def test_a_folder_in_which_nothing_was_written_does_not_stay(tmp_path):
    with RunDirectory(tmp_path / "run").held():
        pass
    assert not list(tmp_path.iterdir())


def test_processes_that_help_to_train_hold_nothing(tmp_path, monkeypatch):
    with RunDirectory(tmp_path).held(), monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        patch.setenv("WORLD_SIZE", "2")
        with RunDirectory(tmp_path).held():
            pass
