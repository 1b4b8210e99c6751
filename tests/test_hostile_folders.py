"""Foreign run folders and detector folders: each a class of attack, against the real commands.

`experiments/review/hostile.md` lists what happened. Nothing outside of the folder changes, nothing hangs, and what is
refused is one line that says why.
"""

import hashlib
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_runs import ROOT, small_overrides

from halspan.app import evaluate, export, exporting, train
from halspan.app.entry import run_entry
from halspan.app.finished_run import FinishedRun
from halspan.core.errors import ModelError
from halspan.inference.detector import Detector
from halspan.models.backbones.shards import fingerprint

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("without_plots")]
PRECIOUS = "precious.txt"


@pytest.fixture
def outside(tmp_path):
    """Return a folder of the user's, which must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / PRECIOUS).write_text("keep")
    yield folder
    assert [path.name for path in folder.iterdir()] == [PRECIOUS]
    assert (folder / PRECIOUS).read_text() == "keep"


def call(capfd, command: str, *arguments: str) -> tuple[int, str]:
    """Run an entry point in this process; give its exit status and what it wrote to stderr."""

    capfd.readouterr()
    starts = {
        "train": (train.start, "config"),
        "evaluate": (evaluate.main, "evaluate"),
        "export": (export.main, "export"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(ROOT / f"{command}.py"), *arguments])
        patch.setattr("logging.basicConfig", lambda **_: None)  # pytest has its own
        with pytest.raises(SystemExit) as exit_:
            run_entry(*starts[command])
    return exit_.value.code, capfd.readouterr().err


def edit_config(change):
    def spoil(folder: Path, outside: Path) -> None:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        change(config, outside)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

    return spoil


def add_to_config(text):
    return lambda folder, _: (folder / "config.yaml").open("a").write(text)


def edit_json(name, change):
    def spoil(folder: Path, outside: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return spoil


def replace_by_link(name):
    def spoil(folder: Path, outside: Path) -> None:
        shutil.rmtree(folder / name)
        (folder / name).symlink_to(outside)

    return spoil


def replace_by_pipe(name):
    def spoil(folder: Path, outside: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def compress(folder, outside):
    """Write the checkpoint anew, its weights as zeros that take no room."""
    checkpoint = torch.load(folder / "best.ckpt", weights_only=True)
    checkpoint["bomb"] = torch.zeros(2**22)
    torch.save(checkpoint, folder / "large.ckpt")
    with zipfile.ZipFile(folder / "large.ckpt") as old, zipfile.ZipFile(folder / "best.ckpt", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), zipfile.ZIP_DEFLATED)
    (folder / "large.ckpt").unlink()


class Sprung:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


def draw_elsewhere(config, outside):
    config["data"] = {"_target_": "halspan.data.shapes.world.Shapes", "path": str(outside), "seed": 1, "photos": 90_000}


def lower(config, name):
    """Nest a value deeper than any configuration is."""
    for _ in range(100):
        config = {name: config}
    return config


TARGET = "possible: halspan.data.readers.jsonl.JsonLines, "
# What is done to the folder of a run, and what the error has to name.
RUNS = {
    "code under data": (
        edit_config(
            lambda c, out: c.update(data={"_target_": "builtins.open", "file": str(out / PRECIOUS), "mode": "w"})
        ),
        ["config.yaml: data._target_: 'builtins.open' is not possible", TARGET],
    ),
    "code in a list of values": (
        edit_config(lambda c, _: c["model"].update(image={"size": [{"_target_": "os.getcwd"}]})),
        ["model.image.size.0._target_: 'os.getcwd' is not possible"],
    ),
    "a spec of another key": (
        edit_config(lambda c, _: c.update(data={"_target_": c["split"]["_target_"]})),
        ["data._target_: 'halspan.data...t.parts.Split' is not possible", TARGET],
    ),
    "an instruction to hydra": (
        edit_config(lambda c, _: c["trainer"].update(_partial_=True)),
        ["trainer._partial_: True is not possible"],
    ),
    "no spec where one belongs": (
        edit_config(lambda c, _: c["data"].pop("_target_")),
        ["data._target_: missing", TARGET],
    ),
    "an interpolation": (
        edit_config(lambda c, _: c["model"].update(prompt="${oc.env:HOME} <image>")),
        ["model.prompt: '${oc.env:HOME} <image>' holds '${'"],
    ),
    "an interpolation in a key": (
        edit_config(lambda c, _: c["model"].update(image={"${oc.env:HOME}": 1})),
        ["holds '${'"],
    ),
    "aliases that multiply": (add_to_config("a: &a [x, x]\nb: [*a, *a]\n"), ["anchors and aliases are not possible"]),
    "a tag": (add_to_config("a: !!python/object/apply:os.getcwd []\n"), ["the tag 'tag:yaml.org,2002:python"]),
    "a key that occurs twice": (add_to_config("seed: 2\n"), ["the key 'seed' occurs twice"]),
    "nested without end": (edit_config(lambda c, _: c.update(seed=lower(1, "a"))), ["nested more than 32 deep"]),
    "another encoding": (
        lambda folder, _: (folder / "config.yaml").write_bytes(b"seed: \xff\n"),
        ["config.yaml: 'utf-8' codec can't decode byte 0xff"],
    ),
    "a configuration without end": (
        lambda folder, _: os.truncate(folder / "config.yaml", 2**40),
        ["config.yaml: has 1,099,511,627,776 bytes, more than the 1,048,576 that are read"],
    ),
    "a list for a configuration": (
        lambda folder, _: (folder / "config.yaml").write_text("- a\n"),
        ["config.yaml: holds ['a'], not keys with values"],
    ),
    "a pipe for a configuration": (replace_by_pipe("config.yaml"), ["config.yaml: is not a file that can be read"]),
    "a pipe among the predictions": (
        replace_by_pipe("predictions/test_heldout.jsonl"),
        ["test_heldout.jsonl: is not a file that can be read"],
    ),
    "a folder of results that leads elsewhere": (
        replace_by_link("predictions"),
        ["predictions: is a link out of the run's folder, to "],
    ),
    "a pickle for a checkpoint": (
        lambda folder, out: torch.save({"state_dict": Sprung(out / "sprung")}, folder / "best.ckpt"),
        ["best.ckpt: is not a checkpoint that can be read (", "restore it"],
    ),
    "a checkpoint that is a bomb": (
        compress,
        ["best.ckpt: is not a checkpoint that can be read (", "that claim to be"],
    ),
    "threads without number": (
        edit_config(lambda c, _: c["trainer"].update(threads=10**6)),
        ["trainer.threads: must be less than or equal to"],
    ),
    "an expression that never ends": (
        edit_config(lambda c, _: c["model"]["lora"].update(targets=["language", "(([a-z_.]|[0-9])*)*#"])),
        ["model.lora.targets: '(([a-z_.]|[0-9])*)*#'"],
    ),
    "a temperature that is not a number": (
        edit_json("tuned.json", lambda v: v.update(temperature=float("nan"))),
        ["tuned.json: is not what a run writes (temperatures and threshold are numbers above 0, and"],
    ),
    "a split of other shape": (
        edit_json("split.json", lambda v: v["parts"].update(train=["x"])),
        ["split.json: parts.train: ['x'] is not possible"],
    ),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_hostile_run_is_refused_in_one_line(finished_run, tmp_path, outside, capfd, monkeypatch, name, command):
    monkeypatch.chdir(tmp_path)
    spoil, named = RUNS[name]
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    spoil(folder, outside)
    before = sorted(path.name for path in tmp_path.iterdir())
    status, error = call(capfd, command, f"run={folder}", *([f"to={tmp_path / 'to'}"] if command == "export" else []))
    assert status in (1, 2)
    line = error.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in error
    assert all(word in line for word in named), line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_world_is_not_drawn_where_a_run_alone_says(finished_run, tmp_path, outside, capfd, monkeypatch):
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    edit_config(draw_elsewhere)(folder, outside)
    monkeypatch.chdir(folder)
    status, error = call(capfd, "evaluate", f"run={folder}")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"error: data.path: the run has its corpus in {outside}, where it is not any more")


@pytest.mark.parametrize("name", ["code under data", "an interpolation", "a folder of results that leads elsewhere"])
def test_a_hostile_run_is_not_resumed(finished_run, corpus, tmp_path, outside, capfd, name):
    spoil, named = RUNS[name]
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    spoil(folder, outside)
    status, error = call(capfd, "train", *small_overrides(corpus), f"run_dir={folder}", "resume=true")
    assert status == 2
    assert error.count("\n") == 1
    if name != "code under data":  # which differs from what is asked for, and is not looked at further
        assert all(word in error for word in named)


def test_figures_of_other_shape_are_refused(finished_run, corpus, tmp_path, capfd):
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    edit_json("metrics.json", lambda v: v.update(val={"by_generator": 3}))(folder, tmp_path)
    arguments = [*small_overrides(corpus), f"run_dir={folder}"]
    assert call(capfd, "export", f"run={folder}", f"to={tmp_path / 'to'}")[1].startswith("error: ")
    status, error = call(capfd, "train", *arguments, "resume=true")
    assert status == 2
    assert "metrics.json: is not what a run writes (" in error


COMMAND_LINES = {
    "data._target_=os.system": "data._target_: 'os.system' is not possible; possible: halspan.data.readers.",
    "+x._target_=os.system": "x._target_: 'os.system' is not possible",
    "+model.lora._target_=os.system": "model.lora._target_: 'os.system' is not possible",
    "model._target_=halspan.data.split.parts.Split": "model._target_: 'halspan.data...t.parts.Split' is not possible",
    "+loss._args_=[1]": "loss._args_: [1] is not possible",
    "model.prompt='\\${oc.env:HOME}'": "model.prompt: '${oc.env:HOME}' holds '${'",
}


@pytest.mark.parametrize("argument", COMMAND_LINES)
def test_a_command_line_names_the_specs_of_its_keys_alone(tmp_path, capfd, argument):
    status, error = call(capfd, "train", "data=jsonl", "data.path=x", f"run_dir={tmp_path / 'run'}", argument)
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"error: {COMMAND_LINES[argument]}")


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """Write the detector of the run; what `export.py` does besides is tested elsewhere."""
    from hydra import compose, initialize_config_dir

    folder = tmp_path_factory.mktemp("exports") / "detector"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("export", overrides=[f"run={finished_run}", f"to={folder}"])
    of_run = FinishedRun.read(finished_run, config)
    parts, spec = exporting._load(of_run, config)
    exporting._as_live(of_run, parts, spec, about=exporting._about(of_run, {})).save_pretrained(folder)
    return folder


def edit_detector(name, change):
    """Change a JSON file of a detector, and what the record says of it."""

    def spoil(folder: Path) -> None:
        edit_json(name, change)(folder, folder)
        record = json.loads((folder / "detector.json").read_text())
        if name in record["files"]:
            record["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        record["backbone"]["fingerprint"] = fingerprint(str(folder / "backbone"), None)
        (folder / "detector.json").write_text(json.dumps(record))

    return spoil


def endless_template(folder):
    """Let a template that never ends be the one that the prompt needs."""
    file = folder / "chat_template.jinja"
    file.write_text("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    edit_detector("detector.json", lambda v: v["model"].update(prompt="hello"))(folder)
    record = json.loads((folder / "detector.json").read_text())
    record["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "detector.json").write_text(json.dumps(record))


def of_text(**values):
    return edit_detector("backbone/config.json", lambda v: v["text_config"].update(values))


SLOW_SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
DETECTORS = {
    "a billion layers": (of_text(num_hidden_layers=10**9), "num_hidden_layers 1,000,000,000, more than the 10,000"),
    "a vocabulary that fills the memory": (of_text(vocab_size=10**12), "and the checkpoint has "),
    "a value of another type": (of_text(hidden_size="big"), "hidden_size"),
    "a rank that fills the memory": (
        edit_detector("detector.json", lambda v: v["model"]["lora"].update(r=10**9)),
        r"lora\.r: 1000000000 is not possible",
    ),
    "an expression that never ends": (
        edit_detector(
            "detector.json", lambda v: v["model"]["lora"].update(targets=["language", "(([a-z_.]|[0-9])*)*#"])
        ),
        r"model\.lora\.targets",
    ),
    "a template that never ends": (endless_template, "is not written out"),
    "a tokenizer that panics": (
        edit_detector("tokenizer.json", lambda v: v.update(pre_tokenizer=SLOW_SPLIT)),
        "the backbone's tokenizer fails on its text",
    ),
    "figures of other shape": (
        edit_detector("detector.json", lambda v: v.update(figures={"val": 3}, check={})),
        "figures, origin or check of detector.json are not what a detector has",
    ),
    "a million types": (
        edit_detector("detector.json", lambda v: v.update(taxonomy=[str(n) for n in range(10**5)])),
        r"heads\.safetensors: 2 weights differ",
    ),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_hostile_detector_is_refused(exported, tmp_path, name):
    spoil, message = DETECTORS[name]
    folder = Path(shutil.copytree(exported, tmp_path / "detector"))
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        Detector.from_pretrained(folder, device="cpu").predict(np.zeros((40, 30, 3), np.uint8), "a" * 40 + "!")


def test_folders_in_each_other_are_looked_at_however_deep(exported, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(exported, tmp_path / "detector"))
    monkeypatch.chdir(folder)
    for _ in range(1500):
        os.mkdir("a")  # noqa: PTH102 -- no path is as long as this one
        os.chdir("a")
    (Path("payload.pkl")).write_bytes(b"")
    os.chdir(folder)
    with pytest.raises(ModelError):
        Detector.from_pretrained(folder, device="cpu")
    os.system(f"rm -rf {folder}/a")  # pytest cannot
