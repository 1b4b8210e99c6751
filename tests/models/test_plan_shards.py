"""The memory plan of devices that hold a backbone together."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from halspan.models.model_spec import ModelSpec
from halspan.models.plan import skeleton as skeleton_module
from halspan.models.plan.memory import PassSize, Plan, fewest_devices, make_plan
from halspan.models.plan.remedies import Device, find_enough
from halspan.testing.tiny_models import MakeSpec

CONF = Path(__file__).parents[2] / "conf" / "model"
CONFIGURATIONS = Path(skeleton_module.__file__).parent / "configurations"
SCOUT = CONFIGURATIONS / "meta-llama--Llama-4-Scout-17B-16E-Instruct.json"
GIB = 2**30
LINE = PassSize(tokens=1024, is_mixed=True)


def scout() -> ModelSpec:
    """Return the spec of conf/model/llama4_scout.yaml."""
    base, own = (yaml.safe_load((CONF / f"{file}.yaml").read_text()) for file in ("_base", "llama4_scout"))
    del base["_target_"], own["defaults"]
    return ModelSpec(**(base | own | {"lora": base["lora"] | own.get("lora", {})}))


def maverick(folder: Path) -> ModelSpec:
    """Write the configuration of the family's model of 400 B parameters, in its published shape."""
    config = json.loads(SCOUT.read_text())
    config["text_config"] |= {"num_local_experts": 128, "interleave_moe_layer_step": 2, "use_qk_norm": False}
    (folder / "config.json").write_text(json.dumps(config))
    return replace(scout(), backbone=str(folder))


def check_sum(plan: Plan, one: Plan) -> None:
    """Check that shards, and what is whole on each device, are together what one device would have."""
    assert plan.sharing is not None
    shards = [plan.sharing.share(device) for device in range(plan.sharing.devices)]
    assert sum(shards) == plan.sharing.sharded
    assert sum(shards) + plan.sharing.whole == one.frozen
    assert plan.frozen == shards[0] + plan.sharing.whole == max(shards) + plan.sharing.whole


def test_the_shards_of_scout_on_2_and_4_devices_are_together_the_plan_of_one():
    start = time.process_time()
    one = make_plan(scout(), LINE)
    plans = {n: make_plan(scout(), replace(LINE, devices=n)) for n in (2, 4)}
    assert time.process_time() - start < 20  # seconds
    matrices = 2 * 5120 * 5120 + 2 * 5120 * 1024 + 3 * 5120 * 8192  # of attention and the shared expert
    experts = 16 * 3 * 5120 * 8192
    in_16_bits = 16 * 5120 + 2 * 5120  # router and two norms
    # 4 bits a weight, and 8 bits for each 64
    layers = [48 * (n // 2 + n // 64) for n in (matrices, experts)]
    for n, plan in plans.items():
        check_sum(plan, one)
        assert plan.sharing is not None
        assert plan.sharing.sharded == sum(layers) + 48 * 2 * in_16_bits
        assert plan.sharing.share() == plan.sharing.sharded // n
        assert plan.passing == 3 * plan.sharing.sharded // 48
    whole = {(part.component, part.dtype): part.bytes for part in plans[2].sharing.replicated}
    assert whole["embeddings", "bfloat16"] == whole["vocabulary head", "bfloat16"] == 2 * 202_048 * 5120
    assert whole["language tower", "bfloat16"] == 2 * 5120  # the last norm
    assert {component for component, _ in whole} == {
        *("embeddings", "language tower", "experts", "vision tower", "projector", "vocabulary head")
    }
    assert plans[4].peak < plans[2].peak < 48 * GIB < one.peak


def test_a_model_of_400_billion_parameters_on_8_devices_has_a_plan(tmp_path):
    start = time.process_time()
    one = make_plan(maverick(tmp_path), LINE)
    plan = make_plan(maverick(tmp_path), replace(LINE, devices=8))
    assert time.process_time() - start < 20  # seconds
    frozen = sum(part.parameters for part in one.weights if part.component not in ("adapters", "heads"))
    assert round(frozen / 1e9) == 402  # as the hub's page of Llama-4-Maverick-17B-128E says
    check_sum(plan, one)
    assert plan.frozen / GIB == pytest.approx(29.5, abs=0.1)
    assert one.frozen / GIB == pytest.approx(197.1, abs=0.1)


def test_rows_that_do_not_divide_evenly_are_counted_on_the_device_that_has_them(make_llama4_spec: MakeSpec):
    for quantize in (None, "nf4"):
        spec = make_llama4_spec(quantize=quantize)
        one = make_plan(spec, LINE)
        for n in (1, 2, 3, 5, 7):
            check_sum(make_plan(spec, replace(LINE, devices=n)), one)


def test_the_fewest_devices_are_enough_and_one_less_is_not(make_llama4_spec: MakeSpec):
    spec = make_llama4_spec(pack_tokens=64)
    many = replace(LINE, tokens=100_000)
    plan = make_plan(spec, many)
    peaks = {n: make_plan(spec, PassSize(tokens=64, is_mixed=True, devices=n)).peak for n in range(1, 9)}
    for n in (1, 2, 3, 8):
        assert peaks[n] < peaks.get(n - 1, peaks[n] + 1)
        found = fewest_devices(spec, many, free=peaks[n], like=plan)
        assert found is not None
        assert found.sharing is not None
        assert (found.sharing.devices, found.peak) == (n, peaks[n])
    assert fewest_devices(spec, many, free=10_000, like=plan) is None


def test_devices_that_are_here_count_by_the_smallest_and_others_by_their_usual_sizes(make_llama4_spec: MakeSpec):
    spec = make_llama4_spec()
    plan = make_plan(spec, LINE)
    devices = [Device(name="box", free=free, total=2 * GIB) for free in (2 * GIB, GIB)]
    assert [each.free for each in find_enough(spec, LINE, plan, devices)] == [GIB]
    assert [each.free // GIB for each in find_enough(spec, LINE, plan, [])] == [24, 48, 80, 141]
