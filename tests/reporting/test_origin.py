import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from small_report import PREDICTIONS

from halspan.app import train
from halspan.data.corpus import Corpus
from halspan.evaluation.origin import describe_process, describe_run, find_commit
from halspan.reporting.origin import origin_lines


@pytest.fixture
def corpus(tmp_path):
    captions = tuple(each.caption for each in PREDICTIONS)
    for caption in captions:
        Image.new("RGB", (2, 2)).save(tmp_path / caption.image)
    return Corpus(
        name="captions",
        captions=captions,
        image_root=tmp_path,
        taxonomy=("Attribute", "Object"),
        skipped={"missing image": 2},
        source={"reader": "jsonl", "path": str(tmp_path / "captions.jsonl")},
    )


def test_a_run_is_described_by_its_command_its_corpus_and_what_trained_it(corpus, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py", "data=jsonl", "split.held_out=[a b]"])
    run = describe_run(corpus, corpus.captions[:2])
    assert run["command"] == "python train.py data=jsonl 'split.held_out=[a b]'"
    assert run["date"].endswith("+00:00")
    assert len(run["corpus"].pop("digest")) == 12
    assert run["corpus"] == {"name": "captions", "captions": 4, "reader": "jsonl", "file": "captions.jsonl"}
    assert run["train"] == {"captions": 2, "images": 2, "sentences": 4, "generators": ["sd"]}
    assert run["left_out"] == {"missing image": 2}


def test_an_installed_command_is_told_as_it_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", [train.__file__, "trainer.max_steps=20"])
    assert describe_process()["command"] == "halspan train trainer.max_steps=20"


def test_a_process_that_a_launcher_started_has_no_command_to_show(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(Path("loky/backend/popen_loky_posix.py")), "--process-name", "x"])
    assert describe_run()["command"] is None


def test_predictions_of_something_else_have_neither_corpus_nor_train():
    assert set(describe_run()) == {"date", "command", "commit", "versions"}


def test_a_command_line_is_no_interpolation_for_whoever_reads_it_and_the_same_for_a_shell(monkeypatch):
    arguments = ["-m", "run_dir=runs/${run_name}", "data.path=it's ${here}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    command = describe_process()["command"]
    assert "${" not in command
    assert shlex.split(command) == ["python", "train.py", *arguments]
    assert dict(origin_lines({"run": {"command": command}}))["Command"].count("${") == 2


def test_versions_and_the_commit_of_the_sources_say_what_made_something():
    made = describe_process()
    assert {"python", "halspan", "torch", "transformers"} <= made["versions"].keys()
    software = dict(origin_lines({"run": made | {"commit": "abc-dirty"}}))["Software"]
    assert f"torch {made['versions']['torch']}" in software
    assert software.endswith("commit abc-dirty")


def test_the_commit_is_that_of_halspans_own_repository_alone(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    for folder, add in ((own, ["halspan.py"]), (other, ["README"])):
        folder.mkdir()
        for name in ("halspan.py", "README"):
            (folder / name).write_text("x")
        user = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
        for command in (["init", "-q"], ["add", *add], [*user, "commit", "-q", "-m", "x"]):
            subprocess.run(["git", "-C", folder, *command], check=True)
    commit = find_commit(own / "halspan.py")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (own / "halspan.py").write_text("y")
    assert find_commit(own / "halspan.py") == f"{commit}-dirty"
    assert find_commit(other / "halspan.py") is None  # a .venv in the repository of another project
    assert find_commit(tmp_path / "halspan.py") is None
