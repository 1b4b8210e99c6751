import sys
from pathlib import Path

import pytest
from PIL import Image
from small_report import PREDICTIONS

from halspan.data.corpus import Corpus
from halspan.reporting.origin import describe_run


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


def test_a_process_that_a_launcher_started_has_no_command_to_show(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(Path("loky/backend/popen_loky_posix.py")), "--process-name", "x"])
    assert describe_run()["command"] is None


def test_predictions_of_something_else_have_neither_corpus_nor_train():
    assert set(describe_run()) == {"date", "command"}
