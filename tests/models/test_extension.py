"""A package of its own (tests/extension) adds heads, a reader and a backbone; halspan is as it was."""

import json
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from small_runs import ROOT, configuration, run, small_overrides

from halspan.cli import main
from halspan.core.errors import ConfigError, ModelError
from halspan.core.extensions import Registry, find_conf_folders
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.download.links import find_links
from halspan.data.readers.formats import detect_format
from halspan.data.readers.registry import READERS
from halspan.inference.detector import About, Detector
from halspan.inference.tuning import Tuned
from halspan.models.backbones.families import DEFAULT, family_of
from halspan.models.detector import build_detector
from halspan.models.folder.record import DetectorRecord
from halspan.models.heads.registry import SENTENCE_HEADS, TOKEN_HEADS
from halspan.models.model_spec import ModelSpec
from halspan.models.plan.memory import PassSize, make_plan
from halspan.testing.small_corpora import write_corpus
from halspan.testing.tiny_models import save_tiny_llava
from halspan.training.module import load_trained

PACKAGE = ROOT / "tests" / "extension"
TABLE = "id\timage\tgenerator\ttext\tlabel\n1\t1.png\tanna\tA red field.\tcorrect\n2\t1.png\tben\tA dog.\tincorrect\n"
HEADS = {"token_head": {"name": "bottleneck", "width": 8}, "sentence_head": {"name": "strongest"}}
HEAD_KEYS = [
    "model.token_head.name=bottleneck",
    "+model.token_head.width=8",
    "model.sentence_head.name=strongest",
]


def install(target, *arguments):
    source = shutil.copytree(PACKAGE, target.with_name(f"{target.name}-source"))  # pip builds inside of it
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", *arguments, "install", *options, str(source)]
    subprocess.run(pip if arguments else [*pip, "--target", str(target)], check=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Return the folder that the package is installed in; tests that want it use `installed`."""
    folder = tmp_path_factory.mktemp("site") / "packages"
    install(folder)
    return folder


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(site)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """Return a checkpoint of the package's family."""
    folder = tmp_path_factory.mktemp("backbone") / "example"
    save_tiny_llava(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "example_llava"}))
    return folder


@pytest.fixture
def table(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "captions.tsv").write_text(TABLE)
    return tmp_path / "captions.tsv"


def write_package(folder, name, *, entry_points):
    """Write what the installation of a package leaves of its entry points."""
    place = folder / f"{name}-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text(entry_points)


def test_names_are_known_without_importing_the_package(installed, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "halspan_example"]:
        monkeypatch.delitem(sys.modules, name)
    assert TOKEN_HEADS.names() == ["comparing", "linear", "bottleneck"]
    assert SENTENCE_HEADS.names() == ["pooling", "linear", "strongest"]
    assert READERS.names() == ["jsonl", "chocolate", "alignbench", "tsv"]
    assert READERS.targets()["halspan_example.tsv.Tsv"] == "tsv"
    assert READERS.provider("tsv") == "halspan-example 0.1.0"
    assert READERS.provider("jsonl") is None
    assert find_conf_folders()[0].parts[-2:] == ("halspan_example", "conf")
    assert "halspan_example" not in sys.modules


def test_without_the_package_its_names_are_not_there():
    assert "bottleneck" not in TOKEN_HEADS.names()
    assert "tsv" not in READERS.names()
    assert find_conf_folders() == []
    assert family_of("example_llava") is DEFAULT


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    write_package(tmp_path, "broken", entry_points="[halspan.heads]\ntoken-broken = halspan_broken:Head\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"token head 'broken': broken 1\.0 cannot be imported \(ModuleNotFoundError"):
        TOKEN_HEADS.find("broken")
    assert TOKEN_HEADS.find("linear").__name__ == "LinearTokens"


def test_a_name_that_two_packages_register_is_refused(tmp_path, monkeypatch):
    for name in ("one", "two"):
        write_package(tmp_path, name, entry_points="[halspan.readers]\nsame = json:loads\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"registered by (one 1.0 and two 1.0|two 1.0 and one 1.0); uninstall one"):
        READERS.find("same")


def test_a_name_of_halspans_own_cannot_be_taken(tmp_path, monkeypatch):
    write_package(tmp_path, "thief", entry_points="[halspan.readers]\njsonl = json:loads\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert READERS.find("jsonl").__name__ == "JsonLines"
    assert READERS.names().count("jsonl") == 1


def test_a_package_without_the_folder_that_it_names_is_refused(tmp_path, monkeypatch):
    write_package(tmp_path, "empty", entry_points="[halspan.conf]\nempty = json\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"empty 1.0: 'json' is not a package with a folder conf/"):
        find_conf_folders()


def test_something_else_than_a_head_is_refused(tmp_path, monkeypatch, make_llava_spec):
    write_package(tmp_path, "other", entry_points="[halspan.heads]\ntoken-other = json:loads\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"token head 'other': .* is not a dataclass with a method `build`"):
        make_llava_spec(token_head={"name": "other"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"widht": 8},
            "token head 'bottleneck' has no setting 'widht'; did you mean width? its settings: width, dropout",
        ),
        ({"width": 0}, "token head 'bottleneck': width: 0 is not possible"),
    ],
)
def test_an_impossible_setting_of_a_head_names_its_settings(installed, make_llava_spec, settings, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- matched below, without escapes
        make_llava_spec(token_head={"name": "bottleneck"} | settings)
    assert message in str(caught.value)


def test_a_corpus_of_the_readers_form_is_recognized_checked_and_converted(installed, table, tmp_path, capsys):
    assert detect_format(table) == detect_format(table.parent) == "tsv"
    for arguments in (["check", str(table)], ["stats", str(tmp_path)], ["check", str(table), "--format", "tsv"]):
        with pytest.raises(SystemExit) as exit_:
            main(["data", *arguments])
        assert not exit_.value.code
        assert "captions.tsv: 2 captions of 1 images, 2 sentences" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["data", "convert", str(table), str(tmp_path / "captions.jsonl")])
    assert [json.loads(line)["id"] for line in (tmp_path / "captions.jsonl").read_text().splitlines()] == ["1", "2"]


def test_without_the_package_its_format_is_a_usage_error(table, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["data", "check", str(table), "--format", "tsv"])
    assert exit_.value.code == 2
    assert "'tsv' is not one of 'auto', 'jsonl'" in " ".join(capsys.readouterr().err.split())


def test_the_addresses_of_the_readers_corpora_are_found(installed, table):
    table.write_text(TABLE.replace("1.png", "http://a.example/1.png"))
    assert find_links(table, "tsv").to_fetch == ("http://a.example/1.png",)


def test_its_configuration_files_are_complete(installed, table, backbone):
    folder = find_conf_folders()[0]
    keys = [f"model.backbone={backbone}", f"data.path={table}"]
    config = configuration(f"hydra.searchpath=[file://{folder}]", "model=example_llava", "data=tsv", *keys)
    model, data = (OmegaConf.to_container(config[key]) for key in ("model", "data"))
    assert model.pop("_target_") == "halspan.models.model_spec.ModelSpec"
    spec = ModelSpec(**model)
    assert (spec.token_head.name, spec.token_head.width, spec.sentence_head.name) == ("bottleneck", 8, "strongest")
    reader = READERS.find(READERS.targets()[data.pop("_target_")])
    assert len(reader(**data).load().captions) == 2


def test_a_detector_with_its_heads_is_trained_planned_exported_loaded_and_refused(
    installed, monkeypatch, site, tmp_path
):
    corpus = write_corpus(tmp_path / "corpus")
    place = tmp_path / "run"
    keys = ["trainer.max_steps=2", "trainer.save_every_steps=1", f"run_dir={place}"]
    run(*small_overrides(corpus), *HEAD_KEYS, *keys)
    split = json.loads((place / "split.json").read_text())
    spec = small_spec()
    parts = build_detector(spec, split["taxonomy"])
    untrained = parts[0].token_head.of_type.weight.clone()
    load_trained(parts[0], place / "best.ckpt")
    assert not torch.equal(parts[0].token_head.of_type.weight, untrained)
    live = Detector(
        *parts,
        spec=spec,
        taxonomy=split["taxonomy"],
        tuned=Tuned.from_record(json.loads((place / "tuned.json").read_text())),
        about=About(name="example", figures={}, origin={}),
    )
    live.save_pretrained(tmp_path / "exported")
    image, text = Image.new("RGB", (32, 32), (200, 30, 30)), "The field is red. The field is blue."
    loaded = Detector.from_pretrained(tmp_path / "exported").predict(image, text)
    assert [sentence.p_incorrect for sentence in loaded.sentences] == pytest.approx(
        [sentence.p_incorrect for sentence in live.predict(image, text).sentences], abs=1e-6
    )
    record = json.loads((tmp_path / "exported" / "detector.json").read_text())
    assert record["model"]["token_head"] == {"name": "bottleneck", "width": 8, "dropout": 0.0}
    assert record["model"]["sentence_head"] == {"name": "strongest"}
    assert record["packages"] == ["halspan-example 0.1.0"]
    assert "Needs, besides halspan: halspan-example 0.1.0" in (tmp_path / "exported" / "README.md").read_text()
    monkeypatch.undo()  # as where the package is not installed
    with pytest.raises(ModelError) as caught:
        Detector.from_pretrained(tmp_path / "exported")
    assert (
        "token head 'bottleneck' is not registered; install the package that provides it (entry point group "
        "halspan.heads); registered: comparing, linear; the detector was made with: halspan-example 0.1.0"
    ) in str(caught.value)


def small_spec(**changes):
    settings = {
        "backbone": "builtin:llama4-tiny",
        "prompt": "Which words of this description does the image contradict?",
        "context": "causal",
        "max_tokens": 2048,
        "pack_tokens": 1024,
        "dtype": "float32",
        "attention": "eager",
        "lora": {"r": 8, "alpha": 16, "dropout": 0.1, "targets": ["language"]},
    }
    return ModelSpec(**(settings | HEADS | changes))


def test_the_plan_counts_what_the_heads_take(installed):
    size = PassSize(tokens=1024, is_mixed=False)
    plan = make_plan(small_spec(), size)
    heads = next(part for part in plan.weights if part.component == "heads")
    hidden, width, n_types = 64, 8, 9
    assert heads.parameters == 2 * 2 * hidden + (2 * hidden + 1) * width + (width + 1) * (1 + n_types) + 2
    wider = make_plan(small_spec(token_head={"name": "bottleneck", "width": 9}), size, like=plan)
    assert wider.trained - plan.trained == 4 * ((2 * hidden + 1) + 1 + n_types)
    first = make_plan(small_spec(token_head={"name": "comparing"}, sentence_head={"name": "pooling"}), size)
    state = 4 * 1024 * hidden  # bytes of the states of one pass
    assert first.activations.heads == 12 * state  # the 9 that two heads keep beside what they read
    # products and words, both and their norm of twice the width; units, logits and the like are less than a state
    assert plan.activations.heads // state in range(3 + 4, 3 + 8)


def test_a_folder_from_before_heads_could_be_chosen_has_the_first_two(tmp_path):
    spec = replace(small_spec(token_head={"name": "comparing"}, sentence_head={"name": "pooling"}), lora=None)
    parts = build_detector(spec, ("Object",))
    about = About(name="old", figures={}, origin={})
    tuned = Tuned.from_record(TUNED)
    Detector(*parts, spec=spec, taxonomy=("Object",), tuned=tuned, about=about).save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "detector.json"
    record = json.loads(file.read_text())
    del record["model"]["token_head"], record["model"]["sentence_head"], record["packages"]
    file.write_text(json.dumps(record))
    read = DetectorRecord.read(tmp_path / "old").spec("builtin:llama4-tiny")
    assert (read.token_head.name, read.sentence_head.name) == ("comparing", "pooling")
    assert Detector.from_pretrained(tmp_path / "old").predict(Image.new("RGB", (32, 32)), "A red field.").sentences


TUNED = {
    "temperature": 1.0,
    "token_temperature": 1.0,
    "threshold": 0.5,
    "decoding": {"threshold": 0.5, "merge_gap": 1, "min_characters": 1, "snap_to_word": True},
}


def test_its_backbone_is_built_planned_exported_and_loaded(installed, backbone, tmp_path):
    spec = small_spec(backbone=str(backbone), prompt="<image>", max_tokens=1024)
    torch.manual_seed(0)
    parts = build_detector(spec, HALLUCINATION_TYPES)
    assert type(parts[0].backbone.get_base_model()).__module__ == "halspan_example.backbone"
    assert parts[0].family.decoder == "model.language_model"
    plan = make_plan(spec, PassSize(tokens=1024, is_mixed=False))
    own = sum(p.numel() * p.element_size() for p in parts[0].parameters() if p.requires_grad)
    assert plan.trained == own
    about = About(name="example", figures={}, origin={})
    live = Detector(*parts, spec=spec, taxonomy=HALLUCINATION_TYPES, tuned=Tuned.from_record(TUNED), about=about)
    live.save_pretrained(tmp_path / "exported")
    image = Image.new("RGB", (32, 32))
    loaded = Detector.from_pretrained(tmp_path / "exported")
    assert loaded.predict(image, "A red field.").sentences == live.predict(image, "A red field.").sentences


def test_something_else_than_a_family_is_refused(tmp_path, monkeypatch):
    write_package(tmp_path, "other", entry_points="[halspan.backbones]\nother_vl = json:dumps\n")
    write_package(tmp_path, "another", entry_points="[halspan.backbones]\nanother_vl = builtins:dict\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"backbone 'another_vl': another 1.0 registers .*, got {}"):
        family_of("another_vl")


@pytest.mark.slow
def test_in_an_environment_with_the_package_the_commands_work_and_without_it_they_say_what_to_install(
    backbone, tmp_path
):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(tmp_path / "venv")})
    libraries = f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n"
    Path(paths["purelib"], "libraries.pth").write_text(libraries)
    install(tmp_path / "venv", "--python", str(python))

    def call(*arguments, python=python):
        command = [str(python), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    lazy = "import sys; from halspan import Detector; sys.exit('halspan_example' in sys.modules)"
    assert call("-c", lazy).returncode == 0
    corpus = write_corpus(tmp_path / "corpus")
    model = [f"model.backbone={backbone}", "model.prompt='<image>'", "model.max_tokens=1024", *HEAD_KEYS]
    keys = ["trainer.max_steps=2", f"run_dir={tmp_path / 'run'}"]
    done = call(ROOT / "train.py", *small_overrides(corpus), *model, *keys)
    assert done.returncode == 0, done.stderr
    done = call(ROOT / "export.py", f"run={tmp_path / 'run'}", f"to={tmp_path / 'exported'}")
    assert done.returncode == 0, done.stderr
    halspan = ["-c", "from halspan.cli import main; main()"]
    score = ["score", "--detector", tmp_path / "exported", "--input", corpus, "--output", tmp_path / "scored.jsonl"]
    done = call(*halspan, *score)
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "scored.jsonl").read_text().splitlines()[0])
    assert first["sentences"][1]["p_incorrect"] is not None
    (tmp_path / "scored.jsonl").unlink()
    done = call(*halspan, *score, python=sys.executable)
    assert done.returncode == 1
    assert "'bottleneck' is not registered; install the package that provides it" in done.stderr
    assert "the detector was made with: halspan-example 0.1.0" in done.stderr
    done = call(ROOT / "train.py", *small_overrides(corpus), *model[:3], *keys, "plan=true", python=sys.executable)
    assert "is a 'example_llava', which transformers does not know and no installed package registers" in done.stderr


def test_a_registry_without_names_says_so():
    with pytest.raises(ConfigError, match=r"thing 'x' is not registered; .* registered: none"):
        Registry("halspan.things", "thing", {}).find("x")
