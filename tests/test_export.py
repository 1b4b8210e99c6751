"""Exporting a finished run: the folder scores as the live detector does, or there is none."""

import json
import shutil
import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from pydantic import TypeAdapter
from small_runs import ROOT

from halspan.app import export as export_app
from halspan.app import exporting
from halspan.app.configuration.settings import read_settings
from halspan.app.entry import run_entry
from halspan.cli import main as console_command
from halspan.core.captions import Caption
from halspan.core.errors import ConfigError, ModelError
from halspan.data.images import load_image
from halspan.data.readers.jsonl import write_jsonl
from halspan.inference.comparison import _arrays, _compare, score_each
from halspan.inference.detector import Detector
from halspan.models.folder.record import DetectorRecord, ScoringRecord


@pytest.fixture
def place(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def export(*arguments):
    """Run the entry point as the command line does and return its exit status."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(ROOT / "export.py"), *arguments])
        patch.setattr("logging.basicConfig", lambda **_: None)  # pytest has its own
        with pytest.raises(SystemExit) as exit_:
            run_entry(export_app.main, "export")
    return exit_.value.code


def halspan(*arguments):
    """Run the console command."""
    with pytest.raises(SystemExit) as exit_:
        console_command([str(argument) for argument in arguments])
    assert not exit_.value.code


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "detector"
    assert export(f"run={finished_run}", f"to={folder}") == 0
    return folder


def predictions(place):
    return [json.loads(line) for line in (place / "predictions" / "test_heldout.jsonl").read_text().splitlines()]


def test_the_folder_holds_what_the_design_says_and_nothing_beside_it(exported):
    assert {path.name for path in exported.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "backbone",
        "chat_template.jinja",
        "detector.json",
        "heads.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    } - {name for name in ("chat_template.jinja",) if not (exported / name).exists()}
    assert [path.name for path in exported.parent.iterdir()] == ["detector"]


def test_the_folder_was_compared_with_the_live_detector(exported):
    check = json.loads((exported / "detector.json").read_text())["check"]
    assert check == {"captions": min(16, check["captions"]), "largest_difference": 0.0, "tolerance": 1e-5}
    assert check["captions"] > 3


def test_it_says_what_the_run_said(finished_run, exported):
    detector = Detector.from_pretrained(exported, device="cpu")
    for record in predictions(finished_run):
        ranges = [(sentence["start"], sentence["end"]) for sentence in record["sentences"]]
        sentences = detector.predict(record["image"], record["text"], sentences=ranges).sentences
        for sentence, then in zip(sentences, record["sentences"], strict=True):
            assert sentence.p_incorrect == pytest.approx(then["p_incorrect"], abs=1e-5)  # unscored: None, which is that


def leaves(tree, *keys):
    """Return every figure below a key, by its path."""
    if not isinstance(tree, dict | list):
        return {keys: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {path: value for key, below in items for path, value in leaves(below, *keys, key).items()}


def test_scoring_with_the_export_and_judging_that_gives_the_figures_of_the_run(finished_run, exported, tmp_path):
    """The run was trained with bf16-mixed, and is judged in float32, as the export is."""
    assert read_settings(finished_run / "config.yaml")["trainer"]["precision"] == "bf16-mixed"
    said = finished_run / "predictions" / "test_heldout.jsonl"
    records = [Caption.from_record(record).to_record() for record in predictions(finished_run)]
    records = [record | {"image": str(said.parent / record["image"])} for record in records]
    captions, scored = tmp_path / "captions.jsonl", tmp_path / "scored.jsonl"
    write_jsonl(captions, records)
    halspan("score", "-d", exported, "-i", captions, "-o", scored, "--device", "cpu")
    halspan("judge", scored, "--to", tmp_path)
    judged = leaves(json.loads((tmp_path / "metrics.json").read_text())["all"])
    of_run = leaves(json.loads((finished_run / "metrics.json").read_text())["test_heldout"])
    assert len(judged) > 50
    assert set(of_run) - set(judged) == {path for path in of_run if path[0] in ("token", "without_train_texts")} | {
        ("n", name) for name in ("left_out", "captions_in_train", "sentences_in_train")
    }
    for path, value in judged.items():
        expected = of_run[path] if value is None or isinstance(value, str) else pytest.approx(of_run[path], abs=1e-6)
        assert value == expected, path


def test_the_detector_says_what_its_figures_were_measured_with(exported):
    record = json.loads((exported / "detector.json").read_text())
    assert record["scoring"] == {"dtype": "float32", "window": "overlapping"}
    assert Detector.from_pretrained(exported, device="cpu").about.scoring == ScoringRecord(**record["scoring"])
    assert "- Judged in float32" in (exported / "README.md").read_text()
    del record["scoring"]  # as earlier versions wrote it
    assert TypeAdapter(DetectorRecord).validate_json(json.dumps(record)).scoring is None


def test_the_card_has_the_figures_of_the_run(finished_run, exported):
    metrics = json.loads((finished_run / "metrics.json").read_text())["test_heldout"]
    card = (exported / "README.md").read_text()
    low, high = metrics["ci95"]["sentence.auroc.macro"]
    assert f"{metrics['sentence']['auroc']['macro']:.3f} ({low:.3f} to {high:.3f})" in card
    assert "random weights" in card
    assert "Generators held out: cleo" in card


def test_merged_is_compared_too(finished_run, tmp_path):
    assert export(f"run={finished_run}", f"to={tmp_path / 'merged'}", "merge=true") == 0
    record = json.loads((tmp_path / "merged" / "detector.json").read_text())
    assert record["check"]["largest_difference"] < record["check"]["tolerance"] == 1e-4
    assert record["check"]["captions"] > 0
    assert not (tmp_path / "merged" / "backbone").exists()


def test_a_folder_that_scores_otherwise_is_not_left(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("halspan.inference.detector.write_card", spoil_heads)
    assert export(f"run={place}", f"to={tmp_path / 'out'}") == 1
    assert "cannot be loaded in a new process: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def spoil_heads(folder, record):
    file = folder / "heads.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00\x01")


def test_scores_that_differ_are_an_error_that_names_them(finished_run, exported):
    detector = Detector.from_pretrained(exported, device="cpu")
    captions = [replace(Caption.from_record(record), image=record["image"]) for record in predictions(finished_run)[:2]]
    live = score_each(detector, captions)
    fresh = dict(_arrays(live))
    assert _compare(dict(_arrays(live)), fresh, 1e-5) == 0
    for name, scores in fresh.items():
        spoiled = fresh | {name: scores + np.float32(1e-3)}
        with pytest.raises(ModelError, match=f"{name}: the folder's differ by 1.00e-03"):
            _compare(dict(_arrays(live)), spoiled, 1e-5)
        with pytest.raises(ModelError, match=f"{name}: the folder scores other tokens"):
            _compare(dict(_arrays(live)), fresh | {name: scores[:-1]}, 1e-5)


def test_a_folder_that_is_there_is_kept_unless_told_otherwise(finished_run, exported, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    assert export(f"run={finished_run}", f"to={exported}") == 2
    assert "is there already; add overwrite=true" in capsys.readouterr().err
    assert export(f"run={finished_run}", f"to={tmp_path / 'mine'}", "overwrite=true") == 2
    assert "holds files other than a detector" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists()


def drop_a_head(place):
    checkpoint = torch.load(place / "best.ckpt", weights_only=True)
    del checkpoint["state_dict"]["detector.sentence_head.incorrect.weight"]
    torch.save(checkpoint, place / "best.ckpt")


def rename_a_key(place):
    checkpoint = torch.load(place / "best.ckpt", weights_only=True)
    weights = checkpoint["state_dict"]
    weights["detector.other"] = weights.pop("detector.sentence_head.incorrect.weight")
    torch.save(checkpoint, place / "best.ckpt")


def add_a_type(place):
    split = json.loads((place / "split.json").read_text())
    (place / "split.json").write_text(json.dumps(split | {"taxonomy": [*split["taxonomy"], "More"]}))


def train_on_another_backbone(place):
    split = json.loads((place / "split.json").read_text())
    (place / "split.json").write_text(json.dumps(split | {"backbone": {"commit": None, "fingerprint": "0" * 64}}))


def say_something_else(place):
    records = [
        record | {"sentences": [sentence | {"p_incorrect": 0.99, "logit": None} for sentence in record["sentences"]]}
        for record in predictions(place)
    ]
    write_jsonl(place / "predictions" / "test_heldout.jsonl", records)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_a_head, "detector.sentence_head.incorrect.weight"),
        (rename_a_key, "detector.other"),
        (add_a_type, "token head: "),
        (train_on_another_backbone, "has fingerprint "),
        (say_something_else, "no longer says what it said at the end of its run"),
        (lambda place: (place / "tuned.json").unlink(), "has not finished"),
        (lambda place: shutil.rmtree(place / "predictions"), "has no predictions/"),
    ],
)
def test_a_run_that_is_not_whole_is_refused_and_no_folder_is_left(place, tmp_path, capsys, spoil, message):
    spoil(place)
    assert export(f"run={place}", f"to={tmp_path / 'out'}") in (1, 2)
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["to=out"], "error: run: missing; give it: run=..."),
        (["run=nowhere"], "error: to: missing; give it: to=..."),
        (["run=nowhere", "to=out"], "error: run: 'nowhere' has no config.yaml and best.ckpt"),
        (["run=a", "to=out", "merge=maybe"], "error: merge: must be true or false, got 'maybe'"),
        (["run=a", "to=out", "dtype=int8"], "error: dtype: must be null, float32 or bfloat16, got 'int8'"),
        (["run=a", "to=out", "captions=0"], "error: captions: must be a whole number from 1 on, got 0"),
        (["run=a", "to=out", "merged=true"], "error: merged: unknown key; did you mean merge?"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert export(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_images_of_the_run_may_be_gone(place, tmp_path, caplog):
    records = [record | {"image": "gone.png"} for record in predictions(place)]
    write_jsonl(place / "predictions" / "test_heldout.jsonl", records)
    from halspan.app.finished_run import FinishedRun

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("export", overrides=[f"run={place}", "to=out", "captions=3"])
    samples = exporting._choose_samples(FinishedRun.read(place, config), config, tmp_path)
    assert (len(samples.predictions), samples.are_real) == (3, False)
    assert load_image(tmp_path / "drawn.png").mode == "RGB"
    assert "images of the test part are gone" in caplog.text


def test_what_a_killed_export_has_left_is_removed_and_what_it_replaced_is_put_back(tmp_path):
    place, temporary, old = tmp_path / "mine", tmp_path / ".mine.tmp", tmp_path / ".mine.old"
    for folder in (temporary, old):
        folder.mkdir()
    (temporary / "half.safetensors").touch()
    (old / "detector.json").touch()
    with suppress(RuntimeError), export_app._new_folder(place, overwrite=True) as folder:
        assert not list(folder.iterdir())
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in place.iterdir()] == ["detector.json"]
    with export_app._new_folder(place, overwrite=True) as folder:
        (folder / "new.json").touch()
    assert [path.name for path in place.iterdir()] == ["new.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_two_processes_do_not_export_to_one_place(tmp_path):
    with export_app._new_folder(tmp_path / "mine", overwrite=False):
        other = export_app._new_folder(tmp_path / "mine", overwrite=False)
        with pytest.raises(ConfigError, match="another process is exporting there"):
            other.__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_a_killed_process_was_about_to_replace_is_put_back_and_not_replaced_unasked(tmp_path):
    place, old = tmp_path / "mine", tmp_path / ".mine.old"
    old.mkdir()
    (old / "detector.json").write_text("{}")
    with pytest.raises(ConfigError, match="is there already"), export_app._new_folder(place, overwrite=False):
        pass
    assert (place / "detector.json").read_text() == "{}"


def test_a_file_is_no_place_for_an_export(tmp_path):
    (tmp_path / "mine").write_text("text")
    with pytest.raises(ConfigError, match="is not a folder"), export_app._new_folder(tmp_path / "mine", overwrite=True):
        pass
    assert (tmp_path / "mine").read_text() == "text"
