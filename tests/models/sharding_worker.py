"""One of the processes of tests/models/test_sharding.py: a detector in shards beside the same one whole.

    python sharding_worker.py RANK PROCESSES FOLDER BACKBONE FAMILY CASE...

Results are written to FOLDER/RANK.json. A case is a JSON object of changes of the model's settings.
"""

import json
import sys
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from halspan.core.errors import ModelError
from halspan.core.losses import Logits
from halspan.models.backbones.shards import StoredTensor
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import LoraSpec, ModelSpec
from halspan.models.plan.inventory import take_inventory
from halspan.models.plan.memory import PassSize, make_plan
from halspan.models.sharding import layers
from halspan.models.sharding.lockstep import in_step
from halspan.models.sharding.marks import is_sharded
from halspan.testing.tiny_detectors import CAPTIONS, encode
from halspan.testing.tiny_families import PROMPTS
from halspan.testing.tiny_models import TAXONOMY, spec_maker

READ: Counter[str] = Counter()


def count_reading() -> None:
    """Count how often this process reads each weight."""
    read = StoredTensor.__getitem__

    def counted(stored: StoredTensor, index: object) -> Tensor:
        READ[stored.name] += 1
        return read(stored, index)

    StoredTensor.__getitem__ = counted  # type: ignore[method-assign]


def make(spec: ModelSpec, *, in_shards: bool) -> tuple[SpanDetector, RowEncoder]:
    torch.manual_seed(0)
    detector, encoder = build_detector(spec, TAXONOMY, in_shards=in_shards)
    for path, parameter in detector.named_parameters():
        if "lora_B" in path:
            nn.init.normal_(parameter, std=0.1)  # new ones are zero, and would hide mistakes
    return detector.train(), encoder


def train_once(detector: SpanDetector, encoder: RowEncoder) -> tuple[Logits, dict[str, Tensor]]:
    """Take two steps' passes; the gradients are those of the second, when shards have come and gone before."""
    for _ in range(2):
        detector.zero_grad()
        logits = detector(encode(encoder, CAPTIONS))
        (logits.token.sum() + logits.sentence.sum() + logits.type.square().sum()).backward()
    return logits, {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}


def same(one: Logits, two: Logits) -> bool:
    return all(getattr(one, name).equal(getattr(two, name)) for name in ("token", "type", "sentence"))


def compare(spec: ModelSpec) -> dict[str, Any]:
    """Compare a detector in shards with the same one whole."""
    whole, encoder = make(spec, in_shards=False)
    expected, gradients = train_once(whole, encoder)
    READ.clear()
    detector, encoder = make(spec, in_shards=True)
    read = dict(READ)
    logits, own = train_once(detector, encoder)
    with torch.inference_mode():
        scored = detector(encode(encoder, CAPTIONS))
    detector.merge_adapters()  # which has no effect on shards
    here = [p.to_local() if is_sharded(p) else p for p in detector.parameters()]  # type: ignore[attr-defined]
    plan = make_plan(spec, PassSize(tokens=64, is_mixed=False, devices=dist.get_world_size()))
    assert plan.sharing is not None
    return {
        "forward": same(logits, expected),
        "inference": same(scored, expected),
        "gradients": own.keys() == gradients.keys() and all(own[name].equal(gradients[name]) for name in own),
        "n_gradients": len(own),
        "adapters are whole": not any(is_sharded(p) for p in detector.parameters() if p.requires_grad),
        "inventory": take_inventory(detector) == take_inventory(whole),
        "counts": detector.trainable_parameters_by_component() == whole.trainable_parameters_by_component(),
        "bytes in shards": sum(p.nbytes for p, q in zip(here, detector.parameters(), strict=True) if is_sharded(q)),
        "planned bytes in shards": plan.sharing.share(dist.get_rank()),
        "bytes in all shards": plan.sharing.sharded,
        "read": read,
    }


def differ_in_work(spec: ModelSpec) -> dict[str, Any]:
    """Let the first process take two passes more than the others, in training and in scoring."""
    whole, encoder = make(spec, in_shards=False)
    expected, gradients = train_once(whole, encoder)
    detector, encoder = make(spec, in_shards=True)
    assert detector.lockstep is not None
    results: dict[str, Any] = {"forward": True}
    if dist.get_rank() == 0:
        logits, own = train_once(detector, encoder)
        results["forward"] = same(logits, expected)
    detector.lockstep.catch_up(backward=True)
    own = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    if dist.get_rank() == 0:
        results["gradients"] = all(own[name].equal(gradients[name]) for name in gradients)
    else:
        results["gradients"] = all(not gradient.any() for gradient in own.values())
    with in_step(detector), torch.inference_mode():
        for _ in range(2 - dist.get_rank()):
            results["forward"] &= same(detector(encode(encoder, CAPTIONS)), expected)
    return results


def cast_by_fsdp(spec: ModelSpec) -> dict[str, Any]:
    """Let FSDP cast what it exchanges."""
    before = layers._NO_CAST
    layers._NO_CAST = layers.MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    try:
        make(spec, in_shards=True)
    except ModelError as error:
        return {"error": str(error)}
    finally:
        layers._NO_CAST = before
    return {"error": None}


def read(spec: ModelSpec) -> dict[str, Any]:
    """Read a backbone, and give the most memory of its own (that of mapped files left out) that this process took."""
    for module in ("halspan.models.lora", "halspan.models.sharding.reading"):
        import_module(module)
    before, most, ended = own_memory(), 0, Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.002):
            most = max(most, own_memory())

    watcher = Thread(target=watch)
    watcher.start()
    detector, _ = build_detector(spec, TAXONOMY, in_shards=True)
    ended.set()
    watcher.join()
    here = [p.to_local() if is_sharded(p) else p for p in detector.parameters()]  # type: ignore[attr-defined]
    return {
        "most": most - before,
        "own": sum(tensor.nbytes for tensor in here),
        "whole": sum(parameter.nbytes for parameter in detector.parameters()),
        "layer": sum(parameter.nbytes for parameter in detector.decoder_layers[0].parameters()),
    }


def own_memory() -> int:
    """Return the bytes of this process's anonymous memory."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


DO = {"read": read, "compare": compare, "differ in work": differ_in_work, "cast": cast_by_fsdp}


def main(rank: int, processes: int, folder: Path, backbone: str, family: str, cases: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    count_reading()
    targets = ["language", "experts"] if family == "llama4" else ["language"]
    lora = LoraSpec(r=4, alpha=8, dropout=0.0, rslora=True, targets=targets)
    make_spec = spec_maker(backbone, PROMPTS[family])
    results = []
    for case in cases:
        changes = json.loads(case)
        do, own = DO[changes.pop("do")], changes.pop("lora", {})
        changes["lora"] = None if own is None else replace(lora, **own)
        results.append(do(make_spec(max_tokens=512, **changes)))
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.barrier()  # one that ends first would cut off what others have not read yet
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:6], sys.argv[6:])
