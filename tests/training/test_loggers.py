import os
import subprocess
import sys

import pytest
from pytorch_lightning.loggers import CSVLogger

from halspan.core.errors import ConfigError
from halspan.training.loggers import _wandb_id, build_logger, finish_logger
from halspan.training.run_spec import CsvLoggerSpec, WandbLoggerSpec
from halspan.training.rundir import RunDirectory

OFFLINE = WandbLoggerSpec(project="tests", entity=None, mode="offline", tags=["a"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    return RunDirectory(tmp_path)


def wandb_session(run, figures=None):
    logger = build_logger(OFFLINE, run, name="small", settings={"seed": 1})
    logger.log_metrics({"train/loss": 1.0}, step=1)
    experiment = logger.experiment
    finish_logger(logger, figures or {})
    return experiment


def test_a_resumed_run_adds_a_version_to_its_csv_curves(run):
    for _ in range(2):
        logger = build_logger(CsvLoggerSpec(), run, name="small", settings={})
        logger.log_metrics({"train/loss": 1.0}, step=1)
        finish_logger(logger, {})
    assert isinstance(logger, CSVLogger)
    assert sorted(path.parent.name for path in run.path.rglob("metrics.csv")) == ["version_0", "version_1"]


def test_a_resumed_run_continues_its_own_wandb_run(run, tmp_path):
    first, second = wandb_session(run), wandb_session(run)
    assert first.id == second.id == run.wandb_id.read_text()
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2  # two parts of one run, for `wandb sync`


def test_wandb_without_an_account_names_the_remedy(run, monkeypatch):
    monkeypatch.setenv("HOME", str(run.path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    online = WandbLoggerSpec(project="tests", entity=None, mode="online", tags=[])
    with pytest.raises(ConfigError, match=r"Set logger\.mode=offline"):
        build_logger(online, run, name="small", settings={})


@pytest.mark.slow
def test_wandb_warns_of_nothing_that_halspan_does_and_prints_names_as_text(tmp_path):
    session = f"""
from pathlib import Path
from halspan.training.loggers import _wandb_id, build_logger, finish_logger
from halspan.training.rundir import RunDirectory
from halspan.training.run_spec import WandbLoggerSpec
spec = WandbLoggerSpec(project="tests", entity=None, mode="offline", tags=[])
logger = build_logger(spec, RunDirectory(Path({str(tmp_path)!r})), name="small", settings={{}})
logger.log_metrics({{"train/loss": 1.0}}, step=1)
finish_logger(logger, {{"auroc.gpt" + chr(27) + "[31m4": 0.9}})
"""
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SILENT"}
    command = [sys.executable, "-c", session]
    error = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    assert "WARNING" not in error
    assert r"auroc.gpt\x1b[31m4 0.9" in error


def test_each_run_directory_has_its_own_wandb_run(run, tmp_path):
    first = wandb_session(run, {"test_heldout.sentence.auroc.macro": 0.9})
    second = wandb_session(RunDirectory(tmp_path / "other"))
    assert first.id != second.id
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"test_heldout.sentence.auroc.macro" in log.read_bytes()


def test_an_id_of_wandb_is_a_plain_name(tmp_path):
    (tmp_path / "wandb_id.txt").write_text("../../victim")
    with pytest.raises(ConfigError, match="is not the id of a wandb run"):
        _wandb_id(RunDirectory(tmp_path))
