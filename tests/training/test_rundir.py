import pytest

from halspan.core.errors import ConfigError
from halspan.training.rundir import RunDirectory, is_first_process


@pytest.mark.parametrize(("left", "state"), [("metrics.json", "a finished run"), ("last.ckpt", "an unfinished run")])
def test_a_folder_with_a_run_is_refused_with_both_remedies(tmp_path, left, state):
    (tmp_path / left).touch()
    with pytest.raises(ConfigError, match=f"{state}; add resume=true .* overwrite=true"):
        RunDirectory(tmp_path).check(resume=False, overwrite=False)
    RunDirectory(tmp_path).check(resume=True, overwrite=False)
    RunDirectory(tmp_path).check(resume=False, overwrite=True)


def test_a_run_that_left_no_checkpoint_may_start_again(tmp_path):
    (tmp_path / "config.yaml").touch()
    RunDirectory(tmp_path).check(resume=False, overwrite=False)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="not both"):
        RunDirectory(tmp_path).check(resume=True, overwrite=True)


def test_overwriting_deletes_what_runs_leave_and_nothing_else(tmp_path):
    run = RunDirectory(tmp_path)
    run.predictions.mkdir()
    for path in (run.metrics, run.last, run.predictions / "val.jsonl", tmp_path / "notes.txt"):
        path.touch()
    run.prepare(overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_place_where_no_folder_can_be_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        RunDirectory(tmp_path / "file" / "run").prepare(overwrite=False)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
    ],
)
def test_one_process_of_all_writes(monkeypatch, environment, first):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first
