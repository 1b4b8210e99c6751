"""Detectors of every family, written and loaded again."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from halspan.core.errors import ModelError
from halspan.models.backbones.shards import open_checkpoint
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.folder.load import load_detector
from halspan.models.folder.record import DETECTOR, DetectorRecord, model_record
from halspan.models.folder.write import HEADS, Written, head_tensors, identify_backbone, write_weights
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.lora import adapter_tensors
from halspan.models.model_spec import LoraSpec
from halspan.testing.tiny_detectors import saved
from halspan.testing.tiny_families import PROMPTS
from halspan.testing.tiny_models import TAXONOMY, TEXTS, make_caption, make_image, spec_maker

# transformers' PaliGemma processor makes an array of a tensor as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
families = pytest.mark.parametrize("name", PROMPTS)
CPU = torch.device("cpu")
MERGED_WITHIN = 1e-5  # measured: 2.8e-6
ROUNDED_WITHIN = 0.5  # logits in bfloat16; measured: 0.06, and 0.09 with routed experts


def build(name: str, **changes: Any) -> tuple[SpanDetector, RowEncoder, Any]:
    """Build a detector whose adapters and heads do something."""
    torch.manual_seed(3)
    spec = spec_maker(saved(name), PROMPTS[name])(**({"max_tokens": 512} | changes))
    detector, encoder = build_detector(spec, TAXONOMY)
    for path, parameter in detector.named_parameters():
        if parameter.requires_grad and ("lora_B" in path or not path.startswith("backbone.")):
            nn.init.normal_(parameter, std=0.1)
    return detector.eval(), encoder, spec


def write(folder: Path, detector: SpanDetector, encoder: RowEncoder, spec: Any, *, merge: bool = False) -> Written:
    folder.mkdir()
    written = write_weights(folder, detector, encoder.processor, spec, taxonomy=TAXONOMY, merge=merge)
    DetectorRecord(
        schema=1,
        halspan="0",
        name="tiny",
        kind=written.kind,
        taxonomy=list(TAXONOMY),
        tuned={},
        model=model_record(replace(written.spec, prompt=encoder.prompt)),
        backbone=written.backbone,
        image_backend="pil",
        heads=written.heads,
        files=written.files,
        figures={},
        origin={},
    ).write(folder)
    return written


@torch.no_grad()
def scores(detector: SpanDetector, encoder: RowEncoder) -> Sequence[Tensor]:
    rows = [encoder.encode(make_image(n), [make_caption(text) for text in TEXTS], targets=False) for n in range(2)]
    logits = detector(encoder.collate(rows))
    return logits.sentence, logits.token, logits.type.softmax(-1)


def difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@families
def test_adapters_and_heads_come_back_tensor_by_tensor_in_all_families(name, tmp_path):
    detector, encoder, spec = build(name)
    write(tmp_path / "out", detector, encoder, spec)
    loaded, again, _, _ = load_detector(tmp_path / "out", device=CPU)
    assert_equal(head_tensors(loaded), head_tensors(detector))
    assert_equal(adapter_tensors(loaded.backbone), adapter_tensors(detector.backbone))
    assert difference(scores(loaded, again), scores(detector, encoder)) == 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
@pytest.mark.parametrize(("name", "targets"), [("llava", ["language"]), ("llama4", ["language", "experts"])])
def test_adapters_on_upper_layers_alone_come_back_in_halspan_and_in_peft(name, targets, tmp_path):
    lora = LoraSpec(r=2, alpha=4, dropout=0.0, targets=targets, layers=1, rslora=True)
    detector, encoder, spec = build(name, lora=lora)
    write(tmp_path / "out", detector, encoder, spec)
    loaded, again, _, record = load_detector(tmp_path / "out", device=CPU)
    assert record.model["lora"]["layers"] == 1
    assert_equal(adapter_tensors(loaded.backbone), adapter_tensors(detector.backbone))
    assert difference(scores(loaded, again), scores(detector, encoder)) == 0
    if name == "llava":  # peft itself nests adapters of experts in another order
        plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "backbone")
        read = adapter_tensors(PeftModel.from_pretrained(plain, tmp_path / "out"))
        assert_equal(read, adapter_tensors(detector.backbone))
    record_file = tmp_path / "out" / DETECTOR
    record_file.write_text(record_file.read_text().replace('"layers": 1', '"layers": null'))
    with pytest.raises(ModelError, match=r"adapter_config\.json has target_modules .*; export again"):
        load_detector(tmp_path / "out", device=CPU)


@families
@pytest.mark.parametrize("merge", [False, True])
def test_a_folder_carries_only_the_layers_that_are_read_in_all_families(name, merge, tmp_path):
    read_layer = 2 if name == "mllama" else 1  # its first layer sees no image
    detector, encoder, spec = build(name, read_layer=read_layer)
    before = scores(detector, encoder)
    write(tmp_path / "out", detector, encoder, spec, merge=merge)
    stored = open_checkpoint(str(tmp_path / "out" if merge else tmp_path / "out" / "backbone"), None)
    assert any(".layers.0." in tensor for tensor in stored)
    assert name == "mllama" or len(stored) < len(open_checkpoint(saved(name), None))
    loaded, again, of_folder, _ = load_detector(tmp_path / "out", device=CPU)
    assert of_folder.read_layer == read_layer
    assert difference(scores(loaded, again), before) <= (MERGED_WITHIN if merge else 0)


@families
def test_merged_weights_give_the_same_scores_in_all_families(name, tmp_path):
    detector, encoder, spec = build(name)
    before, heads = scores(detector, encoder), head_tensors(detector)
    write(tmp_path / "out", detector, encoder, spec, merge=True)
    loaded, again, of_folder, _ = load_detector(tmp_path / "out", device=CPU)
    assert of_folder.lora is None
    assert_equal(head_tensors(loaded), heads)
    assert 0 < difference(scores(loaded, again), before) < MERGED_WITHIN


@families
def test_4_bits_come_back_and_merge_into_bfloat16_in_all_families(name, tmp_path):
    detector, encoder, spec = build(name, quantize="nf4", dtype="bfloat16")
    before = scores(detector, encoder)
    write(tmp_path / "out", detector, encoder, spec)
    loaded, again, _, _ = load_detector(tmp_path / "out", device=CPU)
    assert difference(scores(loaded, again), before) == 0
    write(tmp_path / "merged", detector, encoder, spec, merge=True)
    merged, again, of_folder, _ = load_detector(tmp_path / "merged", device=CPU)
    assert (of_folder.quantize, of_folder.dtype) == (None, "bfloat16")
    assert difference(scores(merged, again), before) < ROUNDED_WITHIN


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
@families
def test_peft_and_transformers_read_the_parts_of_all_families(name, tmp_path):
    detector, encoder, spec = build(name)
    write(tmp_path / "out", detector, encoder, spec)
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "backbone")
    adapted = PeftModel.from_pretrained(base, tmp_path / "out")
    assert_equal(adapter_tensors(adapted), adapter_tensors(detector.backbone))
    write(tmp_path / "merged", detector, encoder, spec, merge=True)
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert_equal(merged.state_dict(), detector.backbone.state_dict())


@pytest.mark.parametrize(
    "lora",
    [
        None,
        LoraSpec(r=2, alpha=4, dropout=0.0, targets=["experts"], rslora=True),
        LoraSpec(r=2, alpha=4, dropout=0.0, targets=["language", "experts"], rslora=True),
        LoraSpec(r=2, alpha=4, dropout=0.1, targets=["language", "vision", "projector"], dora=True),
    ],
)
@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_adapters_of_every_kind_come_back(tmp_path, lora, quantize):
    detector, encoder, spec = build("llama4", lora=lora, quantize=quantize)
    before = scores(detector, encoder)
    write(tmp_path / "out", detector, encoder, spec)
    loaded, again, _, _ = load_detector(tmp_path / "out", device=CPU)
    assert difference(scores(loaded, again), before) == 0
    if lora is not None:
        write(tmp_path / "merged", detector, encoder, spec, merge=True)
        merged, again, _, _ = load_detector(tmp_path / "merged", device=CPU)
        assert difference(scores(merged, again), before) < MERGED_WITHIN


def test_heads_alone_have_nothing_to_merge(tmp_path):
    with pytest.raises(ModelError, match="merge: true, but the detector has no adapters"):
        write(tmp_path / "out", *build("llava", lora=None), merge=True)


def test_a_large_model_is_written_in_shards_that_load(tmp_path, monkeypatch):
    monkeypatch.setattr("halspan.models.folder.write.LARGEST_SHARD", "200KB")
    detector, encoder, spec = build("llava")
    before = scores(detector, encoder)
    write(tmp_path / "out", detector, encoder, spec, merge=True)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    loaded, again, _, _ = load_detector(tmp_path / "out", device=CPU)
    assert difference(scores(loaded, again), before) < MERGED_WITHIN


def test_a_backbone_that_is_built_in_travels_along(tmp_path):
    torch.manual_seed(0)
    spec = spec_maker("builtin:llama4-tiny", "What?")()
    written = write(tmp_path / "out", *build_detector(spec, TAXONOMY), spec)
    assert (written.backbone.folder, written.backbone.random_weights) == ("backbone", True)
    assert identify_backbone(spec) == {"commit": None, "fingerprint": written.backbone.fingerprint}
    load_detector(tmp_path / "out", device=CPU)


def test_no_path_of_this_machine_goes_along(tmp_path):
    detector, encoder, spec = build("llava")
    write(tmp_path / "out", detector, encoder, spec)
    write(tmp_path / "merged", detector, encoder, spec, merge=True)
    place = str(Path(saved("llava")).parent)
    for file in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.md")]:
        assert place not in file.read_text(), file


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    write(folder, *build("llava"))
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    """Return a copy of an exported detector, to be spoiled."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def edit(folder: Path, change: Any) -> None:
    record = asdict(DetectorRecord.read(folder))
    change(record)
    (folder / DETECTOR).write_text(json.dumps(record))


def respell(file: Path, change: Any) -> None:
    """Write other tensors into a file that is the recorded one in all else."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"taxonomy": json.dumps(list(TAXONOMY))})


def refuses(folder: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_detector(folder, device=CPU)


def test_a_missing_head_is_named(folder):
    respell(folder / HEADS, lambda tensors: tensors.pop("sentence_head.incorrect.weight"))
    refuses(folder, r"1 weights differ from the detector's, first 'sentence_head.incorrect.weight': absent instead of")


def test_a_renamed_key_is_named(folder):
    file = folder / "adapter_model.safetensors"
    name = min(load_file(file))
    respell(file, lambda tensors: tensors.update({"other": tensors.pop(name)}))
    refuses(folder, rf"2 weights differ from the detector's, first '{name}'")


def test_a_missing_file_is_named(folder):
    (folder / HEADS).unlink()
    refuses(folder, r"heads\.safetensors")


def test_a_changed_weight_is_noticed(folder):
    respell(folder / HEADS, lambda tensors: tensors["token_head.hallucinated.bias"].add_(1))
    refuses(folder, r"heads\.safetensors is not the file that was exported")


def test_a_taxonomy_in_another_order_is_noticed(folder):
    edit(folder, lambda record: record["taxonomy"].reverse())
    refuses(folder, r"taxonomy: the heads were trained for \['Attribute', 'Object'\], and detector.json has \['Object'")


def test_a_longer_taxonomy_is_noticed(folder):
    edit(folder, lambda record: record["taxonomy"].append("Number"))
    refuses(folder, r"'token_head.of_type.bias'.*\(2,\) instead of \(3,\)")


def test_another_rank_is_noticed(folder):
    edit(folder, lambda record: record["model"]["lora"].update(r=8))
    refuses(folder, r"adapter_config.json has r 4, and detector.json makes it 8")


def test_another_backbone_is_noticed(folder):
    file = folder / "backbone" / "model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    save_file(tensors | {name: tensors[name] + 1}, file, {"format": "pt"})
    refuses(folder, r"is another revision than 'llava-\w+', which the detector was trained on \(fingerprint")


def test_a_backbone_of_another_family_is_noticed(folder):
    shutil.rmtree(folder / "backbone")
    shutil.copytree(saved("idefics3"), folder / "backbone")
    refuses(folder, r"is a 'idefics3', and the detector was trained on a 'llava'")


def test_another_tokenizer_is_noticed(folder):
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    refuses(folder, r"tokenizer\.json is not the file that was exported")


def test_what_was_not_exported_is_refused(folder):
    (folder / "preprocessor_config.json").write_text("{}")
    refuses(folder, r"preprocessor_config\.json was not exported with the detector")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(schema=2), "has schema 2, and this version of halspan reads 1"),
        (lambda record: record.update(more=1), "more: 1 is not possible"),
        (lambda record: record.pop("tuned"), "tuned: .* is not possible"),
        (lambda record: record["model"].update(context="sideways"), "sideways"),
        (lambda record: record.update(image_backend="torchvision"), "image_backend: 'torchvision' is not possible"),
        (lambda record: record["files"].update({"../secret": "0" * 64}), r"'../secret' is not the name of a file"),
        (lambda record: record["backbone"].update(folder="../other"), "folder: '../other' is not possible"),
        (lambda record: record["backbone"].update(folder=None, name="/etc"), "is not a backbone of the hub"),
        (lambda record: record["backbone"].update(folder=None, name="a/b"), "is not a backbone of the hub"),
        (lambda record: record["backbone"].update(folder="."), "cannot be that of a detector of the kind 'adapter'"),
        (lambda record: record.update(kind="heads"), "kind 'heads' does not go with model.lora"),
        (lambda record: record["model"].update(lora=None), "kind 'adapter' does not go with model.lora None"),
    ],
)
def test_a_record_that_is_not_possible_is_refused(folder, change, message):
    record = asdict(DetectorRecord.read(folder))
    change(record)
    (folder / DETECTOR).write_text(json.dumps(record))
    refuses(folder, message)


def test_a_folder_without_a_record_is_no_detector(tmp_path):
    refuses(tmp_path, r"has no detector\.json, so it is not an exported detector")
