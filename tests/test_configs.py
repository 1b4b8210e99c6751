"""Every YAML under conf/ composes, and every `_target_` in it takes exactly the keys that stand there."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf
from small_runs import ROOT, configuration

from halspan.app.configuration import configure
from halspan.core.loss_weights import LossWeights

CONF = ROOT / "conf"
FILES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("[!_]*.yaml"))
EXPERIMENTS = [name for name in FILES if name.startswith("experiment/")]
MUST_BE_THERE = {
    "config",
    "evaluate",
    "export",
    "data/alignbench",
    "data/chocolate",
    "data/jsonl",
    "data/shapes",
    "experiment/chocolate",
    "experiment/llama4_lora",
    "experiment/shapes",
    "logger/csv",
    "logger/wandb",
    "model/llama4_tiny",
    "model/shapes",
    "split/held_out",
    "split/leave_one_out",
    "trainer/cpu",
    "trainer/ddp",
    "trainer/fsdp",
    "trainer/gpu",
}


def nodes(config: Any) -> Iterator[DictConfig]:
    """Yield every node with a `_target_`."""
    if isinstance(config, DictConfig):
        if "_target_" in config:
            yield config
        for key in config:
            if not OmegaConf.is_missing(config, key) and key != "run_dir":
                yield from nodes(config[key])
    elif isinstance(config, ListConfig):
        for item in config:
            yield from nodes(item)


def compose_with(name: str) -> DictConfig:
    if "/" not in name:
        return configuration()
    group, choice = name.split("/")
    return configuration(f"{group}={choice}")


def test_the_baselines_of_evaluate_are_what_its_keys_say():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("evaluate", overrides=["model=llama4_tiny"])
    found = {node["_target_"].rsplit(".", 1)[1]: node for node in nodes(config)}
    assert set(found) == {"DualEncoderSpec", "ZeroShotSpec", "ModelSpec", "JudgeSpec"} | {"LoraSpec"} & set(found)
    for node in found.values():
        signature = inspect.signature(get_class(node["_target_"]))
        assert set(signature.parameters) == {key for key in node if key != "_target_"}


def test_the_files_are_found():
    assert set(FILES) >= MUST_BE_THERE


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("evaluate", "export")])
def test_every_target_takes_the_keys_of_its_node(name):
    found = list(nodes(compose_with(name)))
    assert len(found) >= 8  # the run, data, model, split, trainer, logger, optimizer, loss, judge
    for node in found:
        target = get_class(node["_target_"])
        assert is_dataclass(target)
        keys = [key for key in node if key != "_target_"]
        inspect.signature(target).bind(**dict.fromkeys(keys))


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("evaluate", "export")])
def test_every_key_of_a_target_can_be_set_without_a_plus_sign(name):
    for node in nodes(compose_with(name)):
        missing = set(inspect.signature(get_class(node["_target_"])).parameters) - set(node)
        assert not missing, f"{node['_target_']}: conf/{name}.yaml does not list {missing}"


def test_the_weights_of_the_losses_are_the_same_without_a_configuration():
    written = {key: value for key, value in configuration().loss.items() if key != "_target_"}
    assert written == asdict(LossWeights())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_a_valid_run_with_any_model_and_trainer(name):

    experiment = f"experiment={name.split('/')[1]}"
    for group in ("model", "trainer"):
        for choice in [file.split("/")[1] for file in FILES if file.startswith(f"{group}/")]:
            config = configuration(experiment, f"{group}={choice}", "data.path=somewhere")
            assert configure.build(config).run_name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_opens_with_what_the_command_the_cost_and_the_result(name):
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    head = text.split("defaults:")[0]
    for word in ("# What: ", "# Command: python train.py", "Cost", "esult"):
        assert word in head


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_chooses_a_file_of_every_group(name):
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    assert re.findall(r"override /(\w+):", text) == ["data", "model", "split", "trainer", "logger"]


def test_what_belongs_to_a_backbone_or_a_machine_is_set_in_its_own_group_only():
    machine = {"accelerator", "devices", "strategy", "precision", "threads", "workers"}
    for name in EXPERIMENTS:
        experiment = OmegaConf.load(CONF / f"{name}.yaml")
        assert not machine & set(experiment.get("trainer", {}))
        assert not {"backbone", "revision", "prompt", "dtype", "attention", "quantize"} & set(
            experiment.get("model", {})
        )
