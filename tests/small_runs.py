"""Whole runs on a small corpus: seconds on one core, with the random tiny Llama-4."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from halspan.app import fitting, train
from halspan.app.configuration import arguments as arguments_of
from halspan.app.configuration import configure
from halspan.core.files import write_json

ROOT = Path(__file__).parent.parent
FIGURES: dict[str, Any] = {"reasons": {}}


def small_overrides(corpus: Path) -> list[str]:
    """Choose the small corpus and the tiny model, for a few steps."""
    return [
        "model=llama4_tiny",
        "model.lora.dropout=0.1",  # so that random numbers matter
        "data=jsonl",
        f"data.path={corpus}",
        "split.held_out=[cleo]",
        "trainer.threads=1",  # more would wait for each other: other tests have the other cores
        "trainer.precision=bf16-mixed",  # as on a GPU; scoring is in float32 all the same
        "trainer.rows_per_batch=4",
        "trainer.max_steps=6",
        "trainer.max_epochs=null",
        "trainer.val_every_steps=650",  # after the last step alone
        "optimizer.lora_lr=4.0e-3",
        "optimizer.head_lr=4.0e-3",
        "trainer.save_every_steps=2",
        "trainer.log_every_steps=1",
    ]


def configuration(*overrides: str) -> DictConfig:
    """Compose a configuration as the command line does."""

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=arguments_of.choose_experiment(overrides))


def run(*overrides: str) -> dict[str, Any]:
    """Do a whole run in this process and return its metrics."""

    config = configuration(*overrides)
    return train.train(configure.build(config), OmegaConf.to_container(config, resolve=True))


@contextmanager
def unjudged_runs() -> Iterator[None]:
    """Leave out judging, which takes longer than training; a finished run has figures all the same."""

    def leave_figures(*_: Any, folder: Path, **__: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        write_json(folder / "metrics.json", FIGURES)
        return FIGURES | {"run": {}}, {}

    with pytest.MonkeyPatch.context() as patch:
        for name in ("score_blocks", "join_blocks", "leave_figures", "show_figures"):
            patch.setattr(fitting, name, lambda *_, **__: None)
        patch.setattr(fitting, "judge", leave_figures)
        yield


def figures(folder: Path) -> dict[str, Any]:
    """Read the figures of a run, without its name, which is its folder's, and without when and how it was made."""
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    del metrics["detector"]["name"], metrics["run"]
    return metrics
