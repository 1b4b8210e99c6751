import pytest
import torch
from torch import nn

from halspan.training.optimizer import build_optimizer, schedule_factor
from halspan.training.run_spec import OptimizerSpec


def spec(**changes):
    values = {
        "lora_lr": 0.1,
        "head_lr": 1.0,
        "weight_decay": 0.5,
        "betas": (0.9, 0.95),
        "warmup_fraction": 0.2,
        "schedule": "linear",
        "clip_norm": None,
    }
    return OptimizerSpec(**(values | changes))


def test_the_rate_rises_in_equal_parts_and_then_falls_to_zero():
    # 2 warm-up steps of 6: thirds on the way up; 4 left, each takes a quarter off; step 6 would be 0
    factors = [schedule_factor(step, "linear", 2, 6) for step in range(6)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4])


def test_a_cosine_is_half_way_down_in_the_middle():
    assert schedule_factor(0, "cosine", 0, 8) == 1
    assert schedule_factor(4, "cosine", 0, 8) == pytest.approx(0.5)
    assert schedule_factor(8, "cosine", 0, 8) == pytest.approx(0)


def test_a_constant_rate_stays():
    assert schedule_factor(7, "constant", 2, 8) == 1


def test_parts_have_their_own_rates_and_vectors_no_decay():
    layer, head = nn.Linear(2, 2), nn.Linear(2, 1)
    optimizer, _ = build_optimizer(
        spec(warmup_fraction=0), lora=layer.parameters(), heads=head.parameters(), total_steps=10
    )
    groups = [
        (group["initial_lr"], group["weight_decay"], [p.ndim for p in group["params"]])
        for group in optimizer.param_groups
    ]
    assert groups == [(0.1, 0.5, [2]), (0.1, 0.0, [1]), (1.0, 0.5, [2]), (1.0, 0.0, [1])]


def test_heads_alone_are_trained_where_there_is_no_lora():
    optimizer, _ = build_optimizer(spec(), lora=[], heads=nn.Linear(2, 1).parameters(), total_steps=10)
    assert {group["initial_lr"] for group in optimizer.param_groups} == {1.0}


def test_the_schedule_moves_with_each_step():
    head = nn.Linear(1, 1, bias=False)
    optimizer, schedule = build_optimizer(spec(warmup_fraction=0), lora=[], heads=head.parameters(), total_steps=2)
    rates = []
    for _ in range(2):
        rates.append(schedule.get_last_lr()[0])
        head(torch.ones(1)).backward()
        optimizer.step()
        schedule.step()
    assert rates == [1.0, 0.5]
