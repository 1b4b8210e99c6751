"""The time of training in a plan."""

import time

import pytest
import torch

from halspan.models.plan.duration import MEASURED_SHARE, Duration, estimate_duration, measure_rate
from halspan.models.plan.floor import count_floor, full_row
from halspan.models.plan.skeleton import build_skeleton
from halspan.testing.tiny_models import MakeSpec


def test_the_time_of_rows_follows_from_speed_operations_and_devices():
    duration = Duration(rate=4e12, operations=2 * 10**12, rows=1000, devices=5, all_experts=1)
    assert duration.by_floor == 1000 * 2 / 4 / 5  # seconds
    assert duration.expected == pytest.approx(100 / MEASURED_SHARE)


def test_the_speed_of_matrix_products_is_that_of_a_clock():
    seconds = iter(range(100))
    rate = measure_rate(torch.device("cpu"), torch.float32, clock=lambda: float(next(seconds)))
    assert rate == 2 * 1024**3  # operations, in a second each
    start = time.perf_counter()
    assert measure_rate(torch.device("cpu"), torch.float32) > 1e8
    assert time.perf_counter() - start < 30


def test_an_estimate_counts_the_floor_and_what_the_backbone_computes_beyond_it(make_llama4_spec: MakeSpec):
    skeleton = build_skeleton(make_llama4_spec(), n_types=2)
    estimate = estimate_duration(skeleton, rows=7, device=torch.device("cpu"), is_mixed=False, devices=2)
    assert estimate.operations == count_floor(skeleton, [full_row(skeleton)], is_training=True).total
    assert (estimate.rows, estimate.devices, estimate.all_experts) == (7, 2, 4.0)  # 4 experts, and a token goes to one
