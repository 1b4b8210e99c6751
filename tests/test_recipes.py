"""Which numbers a run has and what it is named: an experiment's own apply where it is chosen, and to nothing else."""

import logging
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from small_runs import ROOT, small_overrides

from halspan.app import evaluate, fitting, sweep
from halspan.app import train as train_app
from halspan.app.configuration import arguments as arguments_of
from halspan.app.configuration import configure, run_names
from halspan.app.entry import run_entry

OWN = ("data=jsonl", "data.path=captions.jsonl")


@pytest.fixture
def train(monkeypatch, capsys, tmp_path):
    """Run train.py in this process and in an empty folder; give its exit status, and what it wrote."""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # pytest has its own

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        with pytest.raises(SystemExit) as exit_:
            run_entry(train_app.start, "config")
        return exit_.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def settings(train):
    """Return the configuration that `--cfg job` shows."""

    def show(*arguments: str) -> DictConfig:
        status, shown, _ = train(*arguments, "--cfg", "job", "--resolve")
        assert status == 0
        return OmegaConf.create(shown)

    return show


def test_without_a_choice_it_is_the_quickstart(settings):
    config = settings()
    assert (config.trainer.max_steps, config.trainer.rows_per_batch, config.optimizer.lora_lr) == (1300, 4, 4e-3)
    assert config.split.held_out == ["narrator", "painter"]
    assert config == settings("experiment=shapes") == settings("data=shapes") == settings("data=shapes", "model=shapes")


@pytest.mark.parametrize("arguments", [(*OWN, "model=qwen3_vl"), OWN, ("model=gemma3",)])
def test_own_data_or_another_model_begin_with_the_numbers_of_no_experiment(settings, arguments):
    config = settings(*arguments)
    assert (config.optimizer.lora_lr, config.optimizer.head_lr) == (2e-4, 1e-3)
    assert (config.trainer.max_steps, config.trainer.max_epochs, config.trainer.rows_per_batch) == (None, 3, 16)
    assert config.split.held_out is None


def test_an_experiment_that_is_named_applies_to_own_data_too(settings):
    config = settings("experiment=shapes", *OWN)
    assert (config.trainer.max_steps, config.optimizer.lora_lr, config.data.path) == (1300, 4e-3, "captions.jsonl")


def test_no_experiment_can_be_chosen(settings):
    config = settings("experiment=null")
    assert (config.trainer.max_steps, config.run_name) == (None, "shapes-shapes")


NAMES = [
    ((), "shapes"),
    (("experiment=shapes", "data=shapes", "model=shapes"), "shapes"),
    (("seed=3", "trainer.max_steps=5"), "shapes"),
    (("experiment=llama4_lora",), "llama4_lora"),
    (("experiment=llama4_lora", "trainer=cpu", "data.path=here"), "llama4_lora"),
    (("experiment=llama4_lora", "model=llama4_tiny"), "alignbench-llama4_tiny"),
    (("experiment=shapes", *OWN), "jsonl-shapes"),
    ((*OWN, "model=qwen3_vl"), "jsonl-qwen3_vl"),
    (("model=gemma3",), "shapes-gemma3"),
]


@pytest.mark.parametrize(("arguments", "name"), NAMES, ids=[name for _, name in NAMES])
def test_a_run_is_named_by_the_experiment_whose_data_and_model_it_has_else_by_these(settings, arguments, name):
    config = settings(*arguments)
    assert (config.run_name, config.run_dir) == (name, f"checkpoints/{name}")


SWEEPS = [
    ("seed=1,2", "shapes-seed=1,2"),
    ("experiment=shapes seed=1,2", "shapes-seed=1,2"),
    ("data=jsonl data.path=a model=llama4_tiny,shapes", "jsonl-llama4_tiny,shapes-data.path=a"),
    ("experiment=shapes model=llama4_tiny seed=1,2", "shapes-llama4_tiny-experiment=shapes-seed=1,2"),
    ("experiment=shapes,llama4_lora", "shapes,llama4_lora"),
    ("experiment=null seed=1,2", "shapes-shapes-seed=1,2"),
    ("experiment=shapes,llama4_lora model=llama4_tiny trainer=cpu", "shapes,llama4_lora-model=llama4_tiny-trainer=cpu"),
]


@pytest.mark.parametrize(("arguments", "name"), SWEEPS, ids=[name for _, name in SWEEPS])
def test_a_sweep_is_named_as_its_runs_are(arguments, name):

    arguments = sweep.prepare_arguments(arguments_of.choose_experiment(["-m", *arguments.split()]))
    assert f"hydra.sweep.dir='checkpoints/{name}'" in arguments


def test_what_is_added_to_a_command_line_stands_beside_its_own_overrides():

    added = ["hydra.sweep.dir='checkpoints/shapes-seed=1,2'", "experiment=shapes", "seed=1,2"]
    assert sweep.prepare_arguments(arguments_of.choose_experiment(["seed=1,2", "-m"])) == [*added, "-m"]
    assert sweep.prepare_arguments(arguments_of.choose_experiment(["-m", "seed=1,2"])) == ["-m", *added]


def test_a_sweep_shows_no_configuration(train):
    assert train("-m", "seed=1,2", "--cfg", "job")[::2] == (
        2,
        "error: --cfg: it shows the configuration of one run, -m makes several; take one of them away\n",
    )


def test_own_data_without_held_out_generators_name_those_there_are(train, corpus):
    status, _, error = train(*[key for key in small_overrides(corpus) if not key.startswith("split.")])
    assert status == 2
    assert "error: split.held_out: missing; choose what is never trained on, of anna, ben, cleo, paint: " in error


def chosen(*arguments: str) -> DictConfig:
    """Compose a run as hydra does, with what hydra knows of it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(arguments), return_hydra_config=True)


def test_the_log_says_what_was_chosen_and_how_it_trains(monkeypatch, caplog):

    config = chosen(*OWN, "model=llama4_tiny")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    with caplog.at_level(logging.INFO, "halspan"):
        fitting._show_recipe(configure.build(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])))
    assert caplog.messages == [
        "data=jsonl model=llama4_tiny: 3 epochs, 16 images a step, peak learning rates 0.0002 (LoRA) and 0.001 (heads)"
    ]


RATES = (
    "optimizer.lora_lr=0.004, optimizer.head_lr=0.004: experiment=shapes has them for model=shapes, not for gemma3; "
)
BORROWED = [
    (("experiment=shapes", "model=gemma3"), RATES),
    (("experiment=shapes", "model=gemma3", "optimizer.lora_lr=1e-4"), RATES.partition(", ")[2]),
    (OWN, "model=shapes has seen the shapes world alone; choose one for your images: "),
    ((*OWN, "model=shapes"), None),
    ((*OWN, "model=gemma3"), None),
    (("experiment=shapes", *OWN), None),
    (("experiment=llama4_lora", "model=gemma3"), None),
]


@pytest.mark.parametrize(("arguments", "warning"), BORROWED, ids=[" ".join(arguments) for arguments, _ in BORROWED])
def test_numbers_and_models_made_for_something_else_are_warned_of(arguments, warning):

    warnings = list(run_names.find_borrowed(chosen(*arguments).hydra))
    assert len(warnings) == (warning is not None)
    assert all(found.startswith(warning) for found in warnings)


def test_a_run_of_the_same_name_on_another_corpus_is_kept_and_named(train, corpus, tmp_path):
    folder = tmp_path / "checkpoints" / "jsonl-llama4_tiny"
    folder.mkdir(parents=True)
    mark = "_target_: halspan.training.run_spec.RunSpec"
    (folder / "config.yaml").write_text(f"{mark}\ndata:\n  path: birds.jsonl\n")
    (folder / "metrics.json").write_text("{}")
    status, _, error = train(*small_overrides(corpus))
    assert status == 2
    assert error == (
        "error: run_dir: checkpoints/jsonl-llama4_tiny holds a run on another corpus, birds.jsonl; keep it, and give "
        "this one a folder of its own: run_dir=checkpoints/jsonl-llama4_tiny-captions\n"
    )


QUOTED = [
    ("run=checkpoints/shapes-seed=1", "run='checkpoints/shapes-seed=1'"),
    ("run=[a/x-seed=1,a/b]", "run=['a/x-seed=1',a/b]"),
    ("run='a/x-seed=1'", "run='a/x-seed=1'"),
    ("seed=1,2", "seed=1,2"),
    ("run=[a=", "run='[a='"),
    ("--config-dir=a=b", "--config-dir=a=b"),
]


@pytest.mark.parametrize(("typed", "read"), QUOTED, ids=[typed for typed, _ in QUOTED])
def test_the_folder_of_a_sweeps_run_can_be_typed_as_it_is(typed, read):

    assert arguments_of.quote_values([typed]) == [read]


def test_evaluate_takes_the_folder_of_a_sweeps_run(monkeypatch, capsys):

    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # pytest has its own
    monkeypatch.setattr(sys, "argv", [str(ROOT / "evaluate.py"), "run=checkpoints/absent-seed=1"])
    with pytest.raises(SystemExit):
        run_entry(evaluate.main, "evaluate")
    assert capsys.readouterr().err.startswith(
        "error: run: 'checkpoints/absent-seed=1' has no config.yaml and best.ckpt"
    )
