"""`trainer.profile`: where the time of a step goes."""

import gzip
import json
from dataclasses import replace

import pytest
import torch
from small_runs import run, small_overrides, unjudged_runs

from halspan.core.loss_weights import LossWeights
from halspan.core.losses import combine, loss_terms
from halspan.data.images import load_image
from halspan.data.rows import Row
from halspan.models.plan.floor import count_floor, measure_row
from halspan.models.plan.skeleton import build_skeleton
from halspan.reporting.profile_page import write_profile_page
from halspan.testing.tiny_detectors import build, spec_of
from halspan.testing.tiny_models import TAXONOMY, make_caption, make_image
from halspan.training.encoding import EncodeRows
from halspan.training.profiling import COUNTED, PARTS, Range, add_up, count_operations, to_record


@pytest.fixture(scope="module", autouse=True)
def unjudged():
    with unjudged_runs():
        yield


@pytest.fixture(scope="module")
def measured(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    run(*small_overrides(corpus), "trainer.val_every_steps=4", "trainer.profile=true", f"run_dir={folder}")
    return folder


def test_the_time_of_a_part_is_without_that_of_the_parts_inside_it():
    ranges = [("forward", 0, 10), ("tower", 1, 4), ("decoder", 4, 8), ("backward", 10, 15), ("forward", 20, 30)]
    ranges += [("tower", 21, 22), ("inner", 21, 21.5)]
    found = add_up([Range(name=name, start=start * 1e6, end=end * 1e6) for name, start, end in ranges])
    # forward: 10 - 3 - 4 and 10 - 1; tower: 3 and 1 - 0.5
    assert found == {"forward": 12, "tower": 3.5, "decoder": 4, "backward": 5, "inner": 0.5}


def test_what_a_validation_does_is_not_counted():
    ranges = [Range(name="validation", start=0, end=9e6), Range(name="decoder", start=1e6, end=5e6)]
    parts = add_up([*ranges, Range(name="decoder", start=9e6, end=11e6)])
    record = to_record(parts, seconds=13.0, n_steps=2, first=4)
    assert record["seconds_per_step"] == 2.0  # 13 - 9 of the validation, in 2 steps
    assert record["parts"] == {"decoder": 1.0, PARTS[-1]: 1.0}


def test_a_run_says_where_the_time_of_its_steps_goes(measured):
    record = json.loads((measured / "profile.json").read_text())
    assert (record["first_step"], record["steps"]) == (4, 3)  # of 6 steps, after 3 that warm up
    parts = record["parts"]
    assert list(parts) == list(PARTS)
    assert all(seconds > 0 for seconds in parts.values())
    assert sum(parts.values()) == pytest.approx(record["seconds_per_step"])
    assert parts["backward pass"] > parts["exchange between devices"]
    with gzip.open(measured / "profile_trace.json.gz", "rt") as file:
        names = {event["name"] for event in json.load(file)["traceEvents"] if "name" in event}
    assert {"halspan/decoder", "halspan/vision tower", "halspan/validation"} <= names
    page = (measured / "profile.html").read_text()
    assert all(name in page for name in PARTS)
    assert "Mean of 3 optimizer steps, from step 4 on" in page


def test_a_run_says_how_many_operations_its_steps_took_beside_the_floor(measured):
    record = json.loads((measured / "profile.json").read_text())
    of_parts = {of["part"]: of for of in record["operations"]}
    assert list(of_parts) == list(COUNTED)
    for name, of in of_parts.items():
        assert of["seconds"] == pytest.approx(sum(record["parts"][part] for part in COUNTED[name]))
        assert of["counted"] >= of["floor"] > 0, name
    page = (measured / "profile.html").read_text()
    whole = {key: sum(of[key] for of in of_parts.values()) for key in ("floor", "counted")}
    assert f"<td>{whole['floor'] / 1e9:.3g}</td><td>{whole['counted'] / 1e9:.3g}</td>" in page
    assert f"<td>{whole['counted'] / whole['floor']:.2f}</td>" in page


def test_operations_of_one_caption_are_the_floor_and_the_pairs_that_are_masked():
    detector, encoder = build("llava")
    skeleton = build_skeleton(spec_of("llava"), n_types=len(TAXONOMY))
    row = encoder.encode(make_image(0), [make_caption("A red cat sat. It ran.", label="incorrect")])
    floor = count_floor(skeleton, [measure_row(skeleton, row)], is_training=True)
    batch = encoder.collate([row])

    def work() -> None:
        logits = detector.train()(batch)
        combine(loss_terms(logits, batch.targets, LossWeights()), LossWeights()).backward()

    counted = count_operations(detector, work)
    masked = 2 * 4 * 64 * (batch.size * (batch.size - 1) // 2)  # 2 layers, of 4 x 16 numbers; no token sees a later one
    assert counted["vision tower and projector"] == floor.images
    assert counted["decoder"] == floor.matrices + floor.attention + masked
    assert floor.heads <= counted["heads"] < 1.5 * floor.heads  # which counts the sentence head once a sentence
    beyond = masked + counted["heads"] - floor.heads
    assert counted["backward pass"] == floor.backward + 2 * beyond


def test_the_floor_of_a_step_counts_an_image_once_and_not_if_it_was_kept(tmp_path):
    _, encoder = build("llava")
    make_image(0).save(tmp_path / "a.png")
    captions = [make_caption("A red cat sat.", label="correct"), make_caption("It ran.", label="correct")]
    encode = EncodeRows(encoder, load_image)
    one, other = (Row(tmp_path / "a.png", (caption,)) for caption in captions)
    together = encode.count_floor([Row(tmp_path / "a.png", tuple(captions))], kept=())
    assert encode.count_floor([one, other], kept=()) == together
    kept = encode.count_floor([one, other], kept=captions)
    assert together.images > 0
    assert kept == replace(together, images=0)


def test_a_measured_run_trains_the_weights_of_one_that_is_not(corpus, measured, tmp_path):
    run(*small_overrides(corpus), "trainer.val_every_steps=4", f"run_dir={tmp_path}")
    plain, same = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (tmp_path, measured))
    assert all(torch.equal(plain["state_dict"][name], same["state_dict"][name]) for name in plain["state_dict"])
    assert not (tmp_path / "profile.json").exists()


def test_a_run_of_one_step_is_not_measured_and_says_so(corpus, tmp_path, caplog):
    run(*small_overrides(corpus), "trainer.max_steps=1", "trainer.profile=true", f"run_dir={tmp_path}")
    assert "trainer.profile: the run has too few steps" in caplog.text
    assert not (tmp_path / "profile.html").exists()


def test_the_page_is_plain_where_a_part_has_no_time(tmp_path):
    record = {"first_step": 4, "steps": 1, "seconds_per_step": 2.0, "parts": {"decoder": 0.0, PARTS[-1]: 2.0}}
    write_profile_page(tmp_path / "profile.html", record, title="<run>")
    page = (tmp_path / "profile.html").read_text()
    assert "&lt;run&gt;" in page
    assert "100 %" in page
    assert "1 optimizer step, " in page
