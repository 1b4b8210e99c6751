"""The model card: the hub reads its front matter, whatever names stand in it."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from halspan.core.errors import ModelError
from halspan.core.text.printable import printable
from halspan.inference.card import check_card, write_card
from halspan.models.folder.record import BackboneRecord, DetectorRecord, ScoringRecord

FIGURES = {
    "val": {"n": {"captions": 9}, "figures": {"sentence.auroc.macro": 0.99}, "ci95": {}},
    "test_heldout": {
        "n": {"captions": 7, "images": 3},
        "figures": {"sentence.auroc.macro": 0.8123456789, "sentence.f1": None, "span.char.f1": 0.5},
        "ci95": {"span.char.f1": [0.4, 0.6]},
    },
}
HOSTILE = [
    "---",
    "a\n---\nb",
    "a: b\n- c",
    "{{ a }} {% b %} &c *d !e |f >g %h @i `j`",
    "'\"\\ # no comment",
    "null",
    "1.0",
    "\u2028\x85\x00\x1b[31m",
    "a\r\n---\r\nb",
    "ü 馬 🐴 \u202e",
    "x" * 500 + " y" * 100,
]


def make_record(**changes: Any) -> DetectorRecord:
    backbone = BackboneRecord(
        name="someone/backbone",
        commit="c" * 40,
        folder=None,
        model_type="llava",
        fingerprint="f" * 64,
        random_weights=False,
    )
    record = DetectorRecord(
        schema=1,
        halspan="0.1.0",
        name="shapes",
        kind="adapter",
        taxonomy=["Object"],
        tuned={"threshold": 0.4},
        model={
            "prompt": "<image>",
            "context": "causal",
            "max_tokens": 64,
            "pack_tokens": 64,
            "dtype": "float32",
            "attention": "eager",
            "quantize": None,
            "lora": {"r": 2, "alpha": 4, "dropout": 0.0, "targets": ["language"]},
        },
        backbone=backbone,
        image_backend="pil",
        heads={},
        files={},
        figures=FIGURES,
        origin={"Data": {"reader": "jsonl", "path": "captions.jsonl"}},
        scoring=ScoringRecord(dtype="float32", window="overlapping"),
    )
    return replace(record, **changes)


@pytest.fixture
def read(tmp_path):
    def read(record: DetectorRecord) -> ModelCard:
        write_card(tmp_path, record)
        return ModelCard.load(tmp_path / "README.md")

    return read


def test_the_hub_reads_backbone_license_and_tags(read):
    data = read(make_record()).data
    assert (data.base_model, data.base_model_relation) == ("someone/backbone", "adapter")
    assert (data.license, data.library_name) == ("unknown", "halspan")
    assert data.tags == ["hallucination-detection", "image-captioning", "vision-language", "llava"]
    model = make_record().model | {"lora": None}
    assert read(make_record(kind="merged", model=model)).data.base_model_relation == "finetune"


def test_a_backbone_that_comes_along_is_no_model_of_the_hub(read):
    backbone = replace(make_record().backbone, commit=None, folder="backbone")
    assert read(make_record(backbone=backbone)).data.base_model is None


def test_the_hub_reads_the_figures_of_test_parts_alone(read):
    card = read(make_record())
    results = {(each.dataset_split, each.metric_type): each for each in card.data.eval_results}
    assert results.keys() == {("test_heldout", "roc_auc"), ("test_heldout", "f1")}
    auroc = results["test_heldout", "roc_auc"]
    assert (auroc.metric_value, auroc.dataset_type, auroc.dataset_name) == (0.812346, "jsonl", "captions.jsonl")
    assert results["test_heldout", "f1"].metric_name == "character F1"
    assert card.data.model_name == "shapes"
    assert "| character F1 |  | 0.500 (0.400 to 0.600) |" in card.text


@pytest.mark.parametrize("changes", [{"figures": {}}, {"figures": {"val": FIGURES["val"]}}])
def test_without_figures_of_test_parts_there_is_no_model_index(read, changes):
    assert read(make_record(**changes)).data.eval_results is None


def test_random_weights_are_not_listed_with_figures(read):
    backbone = replace(make_record().backbone, random_weights=True)
    assert read(make_record(backbone=backbone)).data.eval_results is None


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_names_stay_names(read, tmp_path, name):
    """They may stand for a folder, a file of captions, a type of model, and a reader."""
    backbone = replace(make_record().backbone, name=name, model_type=name, folder="backbone")
    record = make_record(name=name, backbone=backbone, origin={"Data": {"reader": name, "path": name}})
    data = read(record).data
    shown = printable(name)
    assert (data.base_model, data.tags[-1], data.model_name) == (shown, shown, shown)
    assert {(each.dataset_type, each.dataset_name) for each in data.eval_results} == {(shown, shown)}
    front, body = (tmp_path / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)
    assert set(yaml.safe_load(front.removeprefix("---\n"))) == {
        "library_name",
        "license",
        "tags",
        "base_model",
        "base_model_relation",
        "model-index",
    }
    assert "\n## Measured\n" in body


@pytest.mark.parametrize(
    "changes",
    [
        {"figures": {"test_seen": {"n": {}, "figures": {"sentence.f1": "high"}, "ci95": {}}}},
        {"figures": {"test_seen": {"n": {}, "figures": {"a.b": 0.5}, "ci95": {}}}},
        {"origin": {"Data": ["jsonl"]}},
        {"tuned": {}},
    ],
)
def test_a_record_with_something_else_is_refused(changes):
    with pytest.raises(ModelError, match=r"shapes: figures, origin or check of detector.json are not what a detector"):
        check_card(make_record(**changes))
