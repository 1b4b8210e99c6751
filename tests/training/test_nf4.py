import re
from pathlib import Path

import pytest
import torch
from small_runs import figures, run, small_overrides

from halspan.models.backbones.synthetic import save_random_llama4
from halspan.testing.small_corpora import write_corpus
from halspan.training.module import DetectorModule

pytestmark = pytest.mark.usefixtures("without_plots")
WIDE = {
    "hidden_size": 640,
    "intermediate_size": 1024,
    "intermediate_size_mlp": 2048,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "num_hidden_layers": 4,
    "num_local_experts": 4,
}


def overrides(corpus: Path, *more: str) -> list[str]:
    """Choose 20 steps of adapters on everything, experts included, on 4 bits."""
    kept = [key for key in small_overrides(corpus) if "dropout" not in key and "max_steps" not in key]
    adapters = ["model.lora.targets=[language,experts]", "model.lora.rslora=true", "model.lora.dropout=0"]
    length = ["trainer.max_steps=20", "trainer.val_every_steps=10"]
    return [*kept, "model.quantize=nf4", *adapters, *length, *more]


def stopped_and_resumed(settings: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pull the plug at step 13, between two checkpoints and after a validation, and go on."""
    step = DetectorModule.training_step

    def pull_out(module, batch, batch_idx):
        if module.trainer.global_step == 13:
            raise InterruptedError
        return step(module, batch, batch_idx)

    monkeypatch.setattr(DetectorModule, "training_step", pull_out)
    with pytest.raises(InterruptedError):
        run(*settings, f"run_dir={folder}")
    monkeypatch.undo()
    run(*settings, f"run_dir={folder}", "resume=true")


def check_same(whole: Path, resumed: Path) -> None:
    first, second = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole, resumed))
    assert first["global_step"] == second["global_step"] == 20
    assert first["state_dict"].keys() == second["state_dict"].keys()
    assert all(first["state_dict"][name].equal(second["state_dict"][name]) for name in first["state_dict"])
    assert figures(whole) == figures(resumed)


def test_a_run_on_4_bits_resumes_exactly_and_its_checkpoints_hold_no_frozen_weight(tmp_path, monkeypatch, capsys):
    settings = overrides(write_corpus(tmp_path / "corpus", n_images=8))
    run(*settings, f"run_dir={tmp_path / 'whole'}")
    shown = capsys.readouterr().out
    assert re.search(r"experts +nf4 +147,456 +0\.1", shown)
    stopped_and_resumed(settings, tmp_path / "resumed", monkeypatch)
    check_same(tmp_path / "whole", tmp_path / "resumed")
    state = torch.load(tmp_path / "whole" / "best.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in name or name.startswith(("detector.token_", "detector.sentence_")) for name in state)
    assert sum(".experts." in name for name in state) == 2 * 2 * 2  # layers, parameters, A and B


@pytest.mark.slow
def test_a_wider_llama4_in_shards_trains_and_resumes_exactly_on_4_bits(tmp_path, monkeypatch):
    save_random_llama4(tmp_path / "wide", WIDE, dtype=torch.bfloat16, shard_bytes=2**25)
    corpus = write_corpus(tmp_path / "corpus", n_images=8)
    settings = overrides(corpus, f"model.backbone={tmp_path / 'wide'}", "model.dtype=bfloat16")
    run(*settings, f"run_dir={tmp_path / 'whole'}")
    stopped_and_resumed(settings, tmp_path / "resumed", monkeypatch)
    check_same(tmp_path / "whole", tmp_path / "resumed")
