"""Runs that keep features of images: a second epoch reads no image, and what is learned stays the same."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_runs import configuration, run, small_overrides, unjudged_runs

from halspan.app.configuration import configure
from halspan.core.errors import ConfigError
from halspan.data import controls
from halspan.data.rows import Row
from halspan.models.inputs.batch import Batch, EncodedRow
from halspan.models.kept.keeping import Keeper
from halspan.models.kept.store import Store
from halspan.testing.small_corpora import write_corpus
from halspan.testing.tiny_detectors import build
from halspan.testing.tiny_models import make_caption, make_image
from halspan.training.encoding import EncodeRows
from halspan.training.module import DetectorModule


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), n_images=8)


def overrides(corpus: Path, folder: Path, kept: Path, mode: str = "true") -> list[str]:
    return [
        *small_overrides(corpus),
        "model.lora.dropout=0",
        "trainer.precision=32-true",
        "trainer.max_steps=null",
        "trainer.max_epochs=2",
        f"trainer.keep_images={mode}",
        f"trainer.keep_folder={kept}",
        "judge.captions=2",
        f"run_dir={folder}",
    ]


def gradients(folder: Path) -> dict[int, torch.Tensor]:
    """Give AdamW's running mean of gradients."""
    state = torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    return {index: entry["exp_avg"] for index, entry in state.items()}


def assert_same_training(first: Path, second: Path) -> None:
    one, other = gradients(first), gradients(second)
    assert one.keys() == other.keys()
    scale = max(float(gradient.abs().max()) for gradient in one.values())
    assert max(float((one[index] - other[index]).abs().max()) for index in one) < 1e-4 * scale


def count_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the rows that training encodes, and the images it reads, in a list of two."""
    counts, reading = [0, 0], [False]
    encode, read = EncodeRows._encode, controls.load_image

    def encode_row(self: EncodeRows, row: Row) -> EncodedRow:
        counts[0] += 1
        reading[0] = True
        try:
            return encode(self, row)
        finally:
            reading[0] = False

    def read_image(path: Path) -> Image.Image:
        counts[1] += reading[0]  # those that are judged afterwards are read, too
        return read(path)

    monkeypatch.setattr(EncodeRows, "_encode", encode_row)
    monkeypatch.setattr(controls, "load_image", read_image)
    return counts


def entries(kept: Path) -> list[Path]:
    return sorted(kept.rglob("*.safetensors"))


@dataclass(frozen=True)
class Kept:
    """A run that has kept the features of its images, and the rows and images that it read."""

    folder: Path
    entries: Path
    rows: int
    images: int


@pytest.fixture(scope="module")
def first(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        counts = count_images(patch)
        run(*overrides(corpus, folder / "run", folder / "kept"))
        rows, images = counts
    return Kept(folder / "run", folder / "kept", rows, images)


def test_each_image_is_read_once_and_what_is_learned_is_the_same(corpus, first, tmp_path, monkeypatch):
    assert 0 < len(entries(first.entries)) == first.images < first.rows
    counts = count_images(monkeypatch)
    run(*overrides(corpus, tmp_path / "plain", tmp_path / "kept", "false"))
    assert counts == [first.rows, first.rows]
    assert not (tmp_path / "kept").exists()
    assert_same_training(tmp_path / "plain", first.folder)


def test_a_second_validation_runs_no_vision_tower(corpus, tmp_path, monkeypatch):
    """Validation takes the way of training: the first one keeps its images, and later ones are served."""
    served: list[tuple[int, bool]] = []
    validate = DetectorModule.validation_step

    def note(module: DetectorModule, batch: Sequence[Batch], batch_idx: int) -> None:
        served.extend((module.trainer.global_step, bool(part.features)) for part in batch)
        validate(module, batch, batch_idx)

    monkeypatch.setattr(DetectorModule, "validation_step", note)
    with unjudged_runs():
        run(*overrides(corpus, tmp_path / "run", tmp_path / "kept"), "trainer.val_every_steps=1")
    steps = sorted({step for step, _ in served})
    assert len(steps) > 1
    assert {(step, is_served) for step, is_served in served} == {(step, step > steps[0]) for step in steps}


def test_the_next_run_reads_no_image_of_those_that_are_kept(corpus, first, tmp_path, monkeypatch, caplog):
    counts = count_images(monkeypatch)
    with caplog.at_level(logging.INFO):
        run(*overrides(corpus, tmp_path, first.entries))
    assert counts == [first.rows, 0]
    assert f"{first.rows} rows were served kept ones, 0 images were computed and kept, 0 rows" in caplog.text
    assert_same_training(tmp_path, first.folder)


def test_workers_read_what_is_kept(corpus, first, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in entries(first.entries)}
    run(*overrides(corpus, tmp_path, first.entries), "trainer.workers=1")
    assert {path: path.stat().st_mtime_ns for path in entries(first.entries)} == before
    assert_same_training(tmp_path, first.folder)


def test_other_images_under_the_same_names_are_computed_again(corpus, first, tmp_path, monkeypatch):
    own, kept = tmp_path / "corpus", tmp_path / "kept"
    shutil.copytree(corpus.parent, own)
    shutil.copytree(first.entries, kept)
    for image in own.rglob("*.png"):
        with Image.open(image) as picture:
            picture.convert("RGB").rotate(180).save(image)
    counts = count_images(monkeypatch)
    run(*overrides(own / corpus.name, tmp_path / "run", kept))
    assert counts[1] > 0
    assert len(entries(kept)) == first.images + counts[1]


def test_an_image_that_is_replaced_while_it_is_read_is_not_kept(tmp_path):
    _, encoder = build("llava")
    keeper, path = Keeper(Store(tmp_path / "kept", gib=1), "settings", is_on=True), tmp_path / "image.png"
    make_image(0).save(path)
    row = Row(path, (make_caption("A red cat.", label="correct"),))

    def read_another(path: Path) -> Image.Image:
        make_image(1, width=64).save(path)
        return controls.load_image(path)

    for read, n_kept in ((read_another, 0), (controls.load_image, 1)):
        (batch,) = EncodeRows(encoder, read, keeper.lookup)([row], tokens_per_pass=512)
        assert len(batch.drafts) == n_kept


def test_gray_images_are_never_kept(corpus, tmp_path):
    run(*overrides(corpus, tmp_path / "run", tmp_path / "kept"), "blank_images=true")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(("pays", "says"), [(0.0, "kept from now on"), (1.1, "not kept")])
def test_auto_keeps_where_images_take_a_share_of_the_time(corpus, tmp_path, monkeypatch, caplog, pays, says):
    monkeypatch.setattr("halspan.training.kept_images._PAYS", pays)
    with caplog.at_level(logging.INFO):
        run(*overrides(corpus, tmp_path / "run", tmp_path / "kept", "auto"))
    line = next(record.getMessage() for record in caplog.records if "of the time" in record.getMessage())
    assert says in line
    assert "decoding and processing" in line
    assert bool(entries(tmp_path / "kept")) == (pays == 0)


def test_it_is_refused_where_the_vision_tower_is_trained(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.keep_images: true, but the vision tower is trained"):
        run(*overrides(corpus, tmp_path / "run", tmp_path / "kept"), "model.lora.targets=[language,vision]")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("false", False), ("on", True), ("off", False), ("auto", "auto")]
)
def test_the_switch_has_three_values(corpus, text, value):
    assert (
        configure.build(configuration(*small_overrides(corpus), f"trainer.keep_images={text}")).trainer.keep_images
        == value
    )


def test_another_value_of_the_switch_is_refused(corpus):
    with pytest.raises(ConfigError, match=r"trainer\.keep_images.*'maybe'"):
        configure.build(configuration(*small_overrides(corpus), "trainer.keep_images=maybe"))
