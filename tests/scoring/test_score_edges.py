"""What `halspan score` does at its edges: workers elsewhere, inputs of one record or none, blocks without scores."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image
from small_scoring import arguments_of, records, write_captions
from test_scoring_shards import status

from halspan.cli import score_runs
from halspan.core.errors import DataError, ModelError
from halspan.data.streams import records as stream
from halspan.data.streams.merging import merge_parts
from halspan.data.streams.records import ItemReader, Position, RawRecord, Shard
from halspan.inference.bulk import REJECTED, SCORED
from halspan.scoring import plan
from halspan.scoring.job import Job

pytestmark = pytest.mark.timeout(120)


def test_workers_with_another_current_folder_find_all_that_was_named_from_this_one(detector, tmp_path, monkeypatch):
    captions = write_captions(tmp_path / "photos" / "captions.jsonl", 3, per_image=3)
    captions.rename(tmp_path / "captions.jsonl")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "exports").symlink_to(detector.parent)
    monkeypatch.chdir(tmp_path)

    def launch(job, shards, _):
        os.chdir("elsewhere")
        for shard in shards:
            job.run(shard, resume=True)
            yield {shard}

    monkeypatch.setattr(score_runs, "find_launcher", lambda *_, **__: launch)
    words = arguments_of(f"exports/{detector.name}", "captions.jsonl", "out/scored.jsonl", "--images", "photos")
    assert status(*words, "--launch", "ray") in (0, None)
    assert len(records(tmp_path / "out" / "scored.jsonl")) == 3


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 4)


def write_wide(captions, *numbers):
    """Give records an image that takes more tokens than the detector's window has."""
    Image.new("RGB", (WIDE, 32), "red").save(captions.parent / "wide.png")
    lines = [json.loads(line) for line in captions.read_text().splitlines()]
    for number in numbers:
        lines[number]["image"] = "wide.png"
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))


WIDE = 180


@pytest.fixture
def narrow(detector, tmp_path):
    """Return a detector whose window has room for small images alone."""
    import shutil

    folder = tmp_path / "narrow"
    shutil.copytree(detector, folder)
    record = json.loads((folder / "detector.json").read_text())
    record["model"]["max_tokens"] = record["model"]["pack_tokens"] = 60
    (folder / "detector.json").write_text(json.dumps(record))
    return folder


def test_a_shard_with_nothing_but_images_that_leave_no_room_rejects_them_as_one_process_does(
    narrow, tmp_path, small_blocks
):
    captions = write_captions(tmp_path / "in" / "captions.jsonl", 9, per_image=3)
    write_wide(captions, 8)
    whole, output = tmp_path / "whole" / "scored.jsonl", tmp_path / "out" / "scored.jsonl"
    assert status(*arguments_of(narrow, captions, whole)) in (0, None)
    assert len(records(whole.with_name("scored.rejected.jsonl"))) == 1
    for index in (1, 2, 3):
        assert status(*arguments_of(narrow, captions, output, "--shard", f"{index}/3")) in (0, None)
    assert merge_parts(output) == {SCORED: 8, "sentences": 16, "unscored sentences": 0, "kept": 8, REJECTED: 1}
    for name in ("scored.jsonl", "scored.rejected.jsonl"):
        assert output.with_name(name).read_bytes() == whole.with_name(name).read_bytes()


def test_a_detector_that_fails_at_the_beginning_ends_every_shard(narrow, tmp_path, small_blocks):
    captions = write_captions(tmp_path / "in" / "captions.jsonl", 12, per_image=3)
    write_wide(captions, *range(8))
    job = Job(detector=str(narrow), input_=captions, output=tmp_path / "scored.jsonl", device="cpu")
    with pytest.raises(ModelError, match="leaves no room"):
        job.run(Shard(2, 3), resume=False)
    job.run(Shard(3, 3), resume=False)


def plan_of(detector, captions, output, *more):
    return status(*arguments_of(detector, captions, output, "--plan", *more))


def test_a_plan_says_what_it_cannot_do_in_its_own_words(detector, tmp_path, capsys):
    assert plan_of(detector, "-", tmp_path / "scored.jsonl") == 2
    assert "--plan: standard input can be read only once" in capsys.readouterr().err
    (tmp_path / "captions.jsonl").write_text("")
    assert plan_of(detector, tmp_path / "captions.jsonl", tmp_path / "scored.jsonl") == 2
    assert "has no records" in capsys.readouterr().err


def test_a_plan_for_standard_output_and_one_record(detector, tmp_path, capsys):
    captions = write_captions(tmp_path / "in" / "captions.jsonl", 1, per_image=3)
    assert plan_of(detector, captions, "-") in (0, None)
    assert "1 records; 1 were scored" in capsys.readouterr().out


@pytest.mark.parametrize("n_blocks", [15, 31, 33])
def test_a_plan_scores_at_most_sixteen_blocks(detector, tmp_path, small_blocks, monkeypatch, n_blocks):
    monkeypatch.setattr(plan, "BLOCK", 4)
    captions = write_captions(tmp_path / "in" / "captions.jsonl", 4 * n_blocks, per_image=3)
    job = Job(detector=str(detector), input_=captions, output=tmp_path / "scored.jsonl", device="cpu")
    assert plan.measure(job).n_sampled <= 16 * 4


def test_the_input_is_not_the_place_of_rejected_records(detector, tmp_path, capsys):
    captions = write_captions(tmp_path / "scored.rejected.jsonl", 3, per_image=3)
    assert status(*arguments_of(detector, captions, tmp_path / "scored.jsonl")) == 2
    assert "rejected records of" in capsys.readouterr().err
    assert len(records(captions)) == 3


def test_one_shard_is_not_several(detector, tmp_path, capsys):
    captions = write_captions(tmp_path / "captions.jsonl", 3, per_image=3)
    assert status(*arguments_of(detector, captions, tmp_path / "scored.jsonl", "--devices", 1, "--shards", 1)) == 2
    assert "--shards" in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["1/2000000", "1/" + "9" * 5000])
def test_shards_beyond_reason_are_one_line(detector, tmp_path, capsys, shard):
    captions = write_captions(tmp_path / "captions.jsonl", 3, per_image=3)
    assert status(*arguments_of(detector, captions, tmp_path / "scored.jsonl", "--shard", shard)) == 2
    assert "the shards of 4 are" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["sentences", "spans", "text", "id", "predicted"])
@pytest.mark.parametrize("ignore", [False, True])
def test_a_record_of_many_brackets_is_rejected_alone(tmp_path, key, ignore):
    deep = {}
    for _ in range(700):
        deep = [deep]
    content = {"image": "a.png", "text": "It is."} | {key: deep}
    reader = ItemReader(tmp_path, tmp_path, ignore_extra_keys=ignore)
    raw = RawRecord(position=Position(1), content=content, problem=None, raw="", n_bytes=1)
    if key == "predicted":  # it is not read
        reader.read(raw)
    elif key == "spans":
        assert reader.read(raw).left_out
    else:
        with pytest.raises(DataError):
            reader.read(raw)


@pytest.mark.parametrize("more", [("--workers", 2), ("--address", "auto"), ("--shards", 4)])
def test_options_of_several_workers_are_not_passed_over_where_there_is_one(detector, tmp_path, capsys, more):
    captions = write_captions(tmp_path / "captions.jsonl", 3, per_image=3)
    assert status(*arguments_of(detector, captions, tmp_path / "scored.jsonl", *more)) == 2
    assert f"{more[0]}" in capsys.readouterr().err
    assert not (tmp_path / "scored.jsonl").exists()


def test_a_ray_cluster_that_cannot_be_reached_is_one_line(detector, tmp_path, capsys):
    pytest.importorskip("ray")
    captions = write_captions(tmp_path / "captions.jsonl", 3, per_image=3)
    words = arguments_of(detector, captions, tmp_path / "scored.jsonl", "--launch", "ray", "--address", "nonsense")
    assert status(*words) == 1
    assert "--address: the Ray cluster nonsense cannot be reached (Invalid address" in capsys.readouterr().err


def test_ctrl_c_while_processes_start_is_one_line(detector, tmp_path):
    captions = write_captions(tmp_path / "captions.jsonl", 300, per_image=3)
    words = arguments_of(detector, captions, tmp_path / "scored.jsonl", "--devices", 2)
    program = f"from halspan.cli import main; main({words!r})"
    first = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, start_new_session=True)
    latest = time.monotonic() + 60
    while sum("spawn_main" in " ".join(one.cmdline()) for one in psutil.Process(first.pid).children()) < 2:
        assert time.monotonic() < latest
        time.sleep(0.01)
    time.sleep(0.5)  # they import
    os.killpg(first.pid, signal.SIGINT)
    err = first.communicate(timeout=60)[1].decode()
    assert first.returncode == 130
    assert err == "interrupted before anything was finished\n"
