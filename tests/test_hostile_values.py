"""Values in foreign run folders and backbones: `experiments/review/hostile.md` lists them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_runs import small_overrides
from test_hostile_folders import (  # noqa: F401 -- fixtures among them
    add_to_config,
    call,
    edit_config,
    edit_json,
    outside,
)

from halspan.core.errors import ModelError
from halspan.evaluation.baselines.runner import read_metrics
from halspan.models.backbones.loading import load_backbone
from halspan.models.backbones.tiny import save_tiny_llama4
from halspan.models.detector import build_detector
from halspan.models.folder.safe_files import check_folder
from halspan.models.model_spec import ModelSpec
from halspan.training.checkpoints import read_checkpoint
from halspan.training.rundir import RunDirectory

pytestmark = pytest.mark.timeout(120)

PLAIN = {"context": "causal", "dtype": "float32", "attention": "eager"}
RUNS = {
    "a key that copies": (add_to_config("<<: {seed: 2}\n"), ["'<<' copies values from elsewhere"]),
    "a number that takes for ever": (
        add_to_config(f"x: {':'.join('1' * 200_000)}\n"),
        ["has 399,999 characters, too many for a number"],
    ),
    "a number that cannot be shown": (add_to_config(f"x: 0x{'f' * 10_000}\n"), ["characters, too many for a number"]),
    "a folder of curves that leads elsewhere": (
        lambda folder, out: (folder / "logs/version_1").symlink_to(out),
        ["logs/version_1: is a link out of the run's folder, to "],
    ),
    "a link to itself": (
        lambda folder, _: (folder / "logs/version_1").symlink_to("version_1"),
        ["logs/version_1: is a link that leads nowhere"],
    ),
    "half of a character": (
        edit_json("split.json", lambda v: v["generators"].update(train=["\ud800"])),
        ["surrogates not allowed"],
    ),
    "a temperature of 400 digits": (
        edit_json("tuned.json", lambda v: v.update(temperature=10**400)),
        ["tuned.json: is not what a run writes (temperatures and threshold are numbers above 0"],
    ),
    "a setting of images of another type": (
        edit_config(lambda c, _: c["model"].update(image={"size": "x"})),
        ["model.image: the vision tower of 'builtin:llama4-tiny' cannot take the images"],
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_hostile_values_are_refused_in_one_line(finished_run, tmp_path, outside, capfd, name):  # noqa: F811
    spoil, named = RUNS[name]
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    spoil(folder, outside)
    status, error = call(capfd, "export", f"run={folder}", f"to={tmp_path / 'to'}")
    assert status in (1, 2)
    assert error.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in error
    assert all(word in error for word in named), error


def test_overwriting_removes_nothing_through_a_link(finished_run, corpus, tmp_path, outside, capfd):  # noqa: F811
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    shutil.rmtree(folder / "logs/version_0")
    (outside / "metrics.csv").write_text("keep")
    (folder / "logs/version_0").symlink_to(outside)
    status, error = call(capfd, "train", *small_overrides(corpus), f"run_dir={folder}", "overwrite=true")
    assert status == 2
    assert "logs/version_0: is a link out of the run's folder" in error
    (outside / "metrics.csv").unlink()  # is there still


def test_an_id_of_wandb_that_is_none_is_removed(finished_run, tmp_path):
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for content in (b"\xff", b"a" * 2000):
        (folder / "wandb_id.txt").write_bytes(content)
        shutil.copy(finished_run / "config.yaml", folder)
        RunDirectory(folder).prepare(overwrite=True)
        assert not (folder / "wandb_id.txt").exists()


FIGURES = [
    {"run": "x"},
    {"run": {"corpus": "x"}},
    {"run": {"corpus": {"digest": []}}},
    {"baselines": ["bow"]},
    {"baselines": {"bow": {"title": "Words", "sentence.auroc.macro": "x", "sentence.auroc.by_generator": {}}}},
]


@pytest.mark.parametrize("figures", FIGURES)
def test_figures_of_other_shape_are_none(tmp_path, figures):
    (tmp_path / "metrics.json").write_text(json.dumps(figures))
    assert read_metrics(tmp_path) == {}


def edit_weight(change):
    def edit(checkpoint):
        name = next(iter(checkpoint["state_dict"]))
        checkpoint["state_dict"][name] = change(checkpoint["state_dict"][name])

    return edit


CHECKPOINTS = {
    "a weight without numbers": edit_weight(lambda weight: weight.to("meta")),
    "a weight with few numbers": edit_weight(lambda weight: weight.to_sparse()),
    "steps before the first": lambda checkpoint: checkpoint.update(global_step=-5),
    "steps that are a text": lambda checkpoint: checkpoint.update(total_steps="\x1b[2J"),
    "counts that are none": lambda checkpoint: checkpoint.update(trained={"heads": "x"}),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_of_other_values_is_refused(finished_run, tmp_path, name):
    checkpoint = torch.load(finished_run / "best.ckpt", weights_only=True)
    CHECKPOINTS[name](checkpoint)
    torch.save(checkpoint, tmp_path / "best.ckpt")
    with pytest.raises(ModelError, match=r"not a checkpoint of a run|not what a run writes"):
        read_checkpoint(tmp_path / "best.ckpt")


@pytest.fixture
def backbone(tmp_path):
    save_tiny_llama4(tmp_path / "backbone")
    return tmp_path / "backbone"


def load(folder):
    load_backbone(ModelSpec(backbone=str(folder), prompt="<image>", max_tokens=99, pack_tokens=99, lora=None, **PLAIN))


def test_nobody_is_asked_whether_to_run_the_code_of_a_backbone(backbone, monkeypatch):
    edit_json(
        "tokenizer_config.json", lambda v: v.update(tokenizer_class="Own", auto_map={"AutoTokenizer": ["o.T"] * 2})
    )(backbone, backbone)
    (backbone / "o.py").write_text("raise SystemExit('was run')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match="contains custom code"):
        load(backbone)


KERNELS = [
    {"attn_implementation": "somebody/kernel"},
    {"attn_implementation": {"text_config": "somebody/kernel"}},
    {"text_config": {"_experts_implementation": "somebody/kernel"}},
]


@pytest.mark.parametrize("settings", KERNELS)
def test_a_configuration_does_not_choose_code_of_the_hub(backbone, settings):
    edit_json("config.json", lambda v: v.update(settings))(backbone, backbone)
    with pytest.raises(ModelError, match=r"_implementation 'somebody/kernel', which is code of the hub"):
        load(backbone)


def test_a_processor_that_fails_on_an_image_says_so(backbone):
    change = edit_json("processor_config.json", lambda v: v["image_processor"].update(rescale_factor="x"))
    change(backbone, backbone)
    spec = ModelSpec(backbone=str(backbone), prompt="<image>", max_tokens=99, pack_tokens=99, lora=None, **PLAIN)
    _, encoder = build_detector(spec, ["a"])
    with pytest.raises(ModelError, match=r"the processor of .* fails on an image of 8 x 9 pixels"):
        encoder.encode(Image.new("RGB", (8, 9)), [], targets=False)


@pytest.mark.parametrize("to", ["x.json", "nowhere.json"])
def test_a_detector_has_no_links_that_lead_nowhere(tmp_path, to):
    (tmp_path / "x.json").symlink_to(to)
    with pytest.raises(ModelError, match="cannot be read"):
        check_folder(tmp_path)


def test_a_configuration_is_an_object(backbone):
    (backbone / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json holds \[\], not an object"):
        load(backbone)
