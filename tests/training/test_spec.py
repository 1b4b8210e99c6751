import pytest
from pydantic import ValidationError

from halspan.training.run_spec import TrainerSpec


def spec(**changes):
    values = {
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "auto",
        "precision": "32-true",
        "threads": None,
        "workers": 0,
        "rows_per_batch": 4,
        "tokens_per_pass": "auto",
        "captions_per_row": 1,
        "max_steps": None,
        "max_epochs": 2,
        "val_every_steps": None,
        "patience": None,
        "save_every_steps": 1,
        "log_every_steps": 1,
        "compile": False,
        "profile": False,
    }
    return TrainerSpec(**(values | changes))


def test_an_epoch_ends_with_a_short_batch():
    assert spec().total_steps(9) == 6  # 4 + 4 + 1 rows, twice


def test_the_shorter_limit_ends_training():
    assert spec(max_steps=5).total_steps(9) == 5
    assert spec(max_steps=7).total_steps(9) == 6
    assert spec(max_steps=7, max_epochs=None).total_steps(9) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": None}, "training would never end"),
        ({"devices": 2}, "set strategy to ddp"),
        ({"devices": 2, "strategy": "fsdp", "compile": True}, r"layers in shards \(strategy fsdp\) are not compiled"),
        ({"devices": 8, "strategy": "ddp"}, "leaves some of 8 devices without a row"),
        ({"max_steps": 0}, "greater than or equal to 1"),
        ({"precision": "fp8"}, "'32-true' or 'bf16-mixed'"),
        ({"max_seconds": 60}, "max_seconds"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        spec(**changes)
