"""Tests of shards: scored apart in any order, by processes or Ray actors that die, they make the bytes of one run."""

import os
import random
import signal
from collections import Counter

import psutil
import pytest
from small_scoring import arguments_of, damage, records, write_captions

from halspan.cli import main
from halspan.core.errors import ConfigError, DataError, ResourceError
from halspan.data.streams import merging
from halspan.data.streams import records as stream
from halspan.data.streams.merging import merge_parts
from halspan.data.streams.parts import find_parts, lines_read, part_of
from halspan.data.streams.records import Shard
from halspan.data.streams.resumable import Paths
from halspan.inference.bulk import SCORED
from halspan.scoring import processes, ray_actors
from halspan.scoring.job import Job
from halspan.scoring.shards import prepare, run_all

N = 4 * stream.BLOCK + 10


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """Return captions of almost five blocks, three of whose records cannot be used."""
    path = write_captions(tmp_path_factory.mktemp("in") / "captions.jsonl", N, per_image=100)
    damage(path, 5, 300, 800)
    return path


@pytest.fixture(scope="module")
def whole(captions, detector, tmp_path_factory):
    """Return what one process writes."""
    output = tmp_path_factory.mktemp("whole") / "out" / "scored.jsonl"
    command(detector, captions, output)
    return output


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "scored.jsonl"


def command(detector, captions, output, *more):
    assert status(*arguments_of(detector, captions, output, *more)) in (0, None)


def status(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def assert_same(output, whole):
    for name in ("scored.jsonl", "scored.rejected.jsonl"):
        assert (output.parent / name).read_bytes() == (whole.parent / name).read_bytes()
    assert sorted(path.name for path in output.parent.iterdir()) == ["scored.jsonl", "scored.rejected.jsonl"]


def test_shards_with_one_output_in_any_order_are_merged_into_the_bytes_of_one_process(
    detector, captions, whole, output, capsys
):
    for index in (3, 1, 2):
        command(detector, captions, output, "--shard", f"{index}/3")
        assert not output.exists()
    assert f"halspan score --merge {output}" in capsys.readouterr().err
    assert status("score", "--merge", output) in (0, None)
    assert_same(output, whole)
    assert f"{N + 3:,} records: {N:,} scored, 3 rejected (scored.rejected.jsonl says why)" in capsys.readouterr().err


@pytest.mark.slow
def test_more_shards_than_blocks_are_merged_too(detector, captions, whole, output):
    for index in range(1, 11):
        command(detector, captions, output, "--shard", f"{index}/10")
    assert merge_parts(output)[SCORED] == N
    assert_same(output, whole)


def test_compressed_output_is_that_of_one_process(detector, captions, tmp_path):
    one, other = tmp_path / "one" / "scored.jsonl.gz", tmp_path / "other" / "scored.jsonl.gz"
    command(detector, captions, one)
    for index in (1, 2):
        command(detector, captions, other, "--shard", f"{index}/2")
    assert status("score", "--merge", other) in (0, None)
    assert one.read_bytes() == other.read_bytes()


def write_parts(output, count, *, lacks=(), settings=None, blocks=8):
    """Write parts as shards do, of records that are their line's number."""
    from halspan.data.streams.records import Position
    from halspan.data.streams.resumable import open_output

    for index in range(1, count + 1):
        shard = Shard(index, count)
        if index in lacks:
            continue
        own = {"--threads": 1, "--shard": str(shard)} | (settings or {}).get(index, {})
        with open_output(part_of(output, shard), settings=own, resume=False) as opened:
            counts = Counter()
            for block in range(index - 1, blocks, count):
                counts["scored"] += 1
                opened.append(
                    records=[{"block": block}] * (block % 3),
                    rejected=[{"line": block}] * (block % 2),
                    position=Position(block * stream.BLOCK + 1),
                    counts=counts,
                )
            opened.complete()


def test_what_lacks_a_shard_or_its_end_is_not_merged_and_the_shards_are_named(output):
    write_parts(output, 4, lacks=(2, 4))
    with pytest.raises(ConfigError, match=r"lacks the shards 2/4, 4/4; score them"):
        merge_parts(output)
    write_parts(output, 4)
    journal = Paths(part_of(output, Shard(3, 4))).journal
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))  # its end was not written
    with pytest.raises(ConfigError, match=r"the shards 3/4 of .* are not finished"):
        merge_parts(output)
    assert not output.exists()


def test_parts_that_differ_in_a_setting_are_not_merged(output):
    write_parts(output, 3, settings={2: {"--threads": 4}})
    with pytest.raises(ConfigError, match="shard 1/3 was scored with --threads 1, shard 2/3 with 4"):
        merge_parts(output)


def test_parts_of_two_runs_are_not_merged(output):
    write_parts(output, 2)
    write_parts(output, 3)
    with pytest.raises(ConfigError, match="parts of 2 and of 3 shards"):
        merge_parts(output)


def test_there_is_nothing_to_merge_and_nothing_else_to_give(output, capsys):
    assert status("score", "--merge", output) == 2
    assert "there are no parts" in capsys.readouterr().err
    assert status("score", "--merge", output, "-d", "folder") == 2
    assert "takes the output of the shards alone" in capsys.readouterr().err


def test_a_part_that_lost_bytes_is_named(output):
    write_parts(output, 2)
    partial = Paths(part_of(output, Shard(2, 2))).partial
    partial.write_bytes(partial.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"2-of-2\.jsonl\.partial: 1 bytes of finished records are missing"):
        merge_parts(output)
    assert not output.exists()


def test_a_journal_with_other_content_is_named(output):
    write_parts(output, 2)
    Paths(part_of(output, Shard(1, 2))).journal.write_text('{"settings": {}}\n{"no": "mark"}\n')
    with pytest.raises(DataError, match=r"1-of-2\.jsonl\.journal: is damaged"):
        merge_parts(output)


@pytest.mark.parametrize("function", ["write_merged", "find_writer", "_copy", "unlink"])
def test_a_merge_that_is_killed_at_any_moment_can_be_repeated(output, function, monkeypatch):
    write_parts(output, 3)
    expected = [{"block": block} for block in range(8) for _ in range(block % 3)]

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if function == "unlink":
            patch.setattr(Paths, "discard_unfinished", die)
        elif function == "find_writer":
            patch.setattr(merging.ResumableOutput, "complete", die)
        else:
            patch.setattr(merging, function, die)
        with pytest.raises(KeyboardInterrupt):
            merge_parts(output)
    assert merge_parts(output)["scored"] == 8
    assert records(output) == expected
    assert sorted(path.name for path in output.parent.iterdir()) == ["scored.jsonl", "scored.rejected.jsonl"]


def test_a_merge_whose_parts_are_partly_removed_removes_the_rest(output, monkeypatch):
    write_parts(output, 3)
    discard, calls = Paths.discard_unfinished, []

    def die_second(paths):
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        discard(paths)

    with monkeypatch.context() as patch:
        patch.setattr(Paths, "discard_unfinished", die_second)
        with pytest.raises(KeyboardInterrupt):
            merge_parts(output)
    before = output.read_bytes()
    merge_parts(output)
    assert output.read_bytes() == before
    assert not find_parts(output)


def test_a_part_that_was_made_after_a_merge_is_not_removed_with_what_the_merge_has_left(output, monkeypatch):
    write_parts(output, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Paths, "discard_unfinished", lambda _: None)  # it is killed before it removes anything
        merge_parts(output)
    write_parts(output, 3, lacks=(2, 3))  # with --overwrite
    merge_parts(output)
    assert records(output) == [{"block": block} for block in range(8) for _ in range(block % 3)]
    write_parts(output, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Paths, "discard_unfinished", lambda _: None)
        merge_parts(output)
    Paths(part_of(output, Shard(2, 3))).discard_unfinished()
    write_parts(output, 3, lacks=(2, 3), settings={1: {"--threads": 4}})
    with pytest.raises(ConfigError, match="lacks the shards 2/3"):
        merge_parts(output)
    assert [str(part.shard) for part in find_parts(output)] == ["1/3", "3/3"]


def test_the_progress_of_a_shard_is_read_from_the_end_of_its_journal(output):
    assert lines_read(output, Shard(1, 2)) == 0
    write_parts(output, 2)
    assert lines_read(output, Shard(1, 2)) == 6 * stream.BLOCK + 1
    assert lines_read(output, Shard(2, 2)) == 7 * stream.BLOCK + 1


def test_a_shard_is_continued_and_is_finished_only_once(detector, captions, output, capsys):
    command(detector, captions, output, "--shard", "1/2")
    capsys.readouterr()
    assert status(*arguments_of(detector, captions, output, "--shard", "1/2")) == 2
    assert "--resume continues it" in capsys.readouterr().err
    journal = Paths(part_of(output, Shard(1, 2))).journal
    before = journal.read_bytes()
    command(detector, captions, output, "--shard", "1/2", "--resume")
    assert journal.read_bytes() == before


def job_of(detector, captions, output, **more):
    return Job(detector=str(detector), input_=captions, output=output, device="cpu", **more)


def run_job(job, launch, *, workers=2, n_shards=4, on_progress=lambda _: None):
    shards = prepare(job, workers=workers, n_shards=n_shards, resume=True, overwrite=False)
    return run_all(job, shards, workers=workers, launch=launch, on_start=lambda _: None, on_progress=on_progress)


def test_processes_of_this_machine_write_the_bytes_of_one(detector, captions, whole, output, capsys):
    command(detector, captions, output, "--devices", "2", "--shards", "3")
    assert_same(output, whole)
    assert f"Written to {output}." in capsys.readouterr().err
    command(detector, captions, output, "--devices", "2", "--resume")
    assert "is finished already" in capsys.readouterr().err


def command_line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it is about to end
        return ""


def kill_a_worker(output, chance, *, most, name):
    """Return a function that kills a process that scores, now and then, once it has finished a block."""
    killed = []

    def kill(_):
        if len(killed) >= most or chance.random() < 0.5:
            return
        workers = [child for child in psutil.Process().children(recursive=True) if name in command_line(child)]
        if workers and any(map(lines_read, [output] * 4, [Shard(index, 4) for index in range(1, 5)])):
            worker = chance.choice(workers)
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

    return kill, killed


def test_a_process_that_is_killed_is_started_again_and_no_byte_differs(detector, captions, whole, output):
    kill, killed = kill_a_worker(output, random.Random(0), most=2, name="spawn_main")
    run_job(job_of(detector, captions, output), processes.launch, on_progress=kill)
    assert killed
    assert_same(output, whole)


@pytest.mark.slow
def test_what_kills_every_process_ends(detector, captions, output, monkeypatch):
    monkeypatch.setattr(processes, "MOST_DEATHS", 1)
    monkeypatch.setattr(processes, "_work", os.abort)  # every process fails to start with it
    with pytest.raises(ResourceError, match=r"shard 1/1 was killed 2 times"):
        run_job(job_of(detector, captions, output), processes.launch, workers=1, n_shards=1)


@pytest.mark.slow
def test_the_error_of_a_worker_is_that_of_the_command(detector, captions, output):
    with pytest.raises(DataError, match="--on-error skip sets such records aside"):
        run_job(job_of(detector, captions, output, stop_on_error=True), processes.launch)
    assert not output.exists()


def test_shards_that_are_complete_are_not_merged_under_other_settings(detector, captions, output):
    for index in (1, 2):
        command(detector, captions, output, "--shard", f"{index}/2")
    with pytest.raises(ConfigError, match="--resume: the interrupted run had --batch-tokens 16384, this one has 4096"):
        run_job(job_of(detector, captions, output, batch_tokens=4096), processes.launch, n_shards=None)
    assert not output.exists()


@pytest.mark.slow
def test_an_interrupted_launch_keeps_its_shards(detector, captions, whole, output):
    def interrupt(n_lines):
        if n_lines:
            raise KeyboardInterrupt

    job = job_of(detector, captions, output)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, processes.launch, on_progress=interrupt)
    with pytest.raises(ConfigError, match="--resume continues it"):
        prepare(job, workers=1, n_shards=None, resume=False, overwrite=False)
    with pytest.raises(ConfigError, match="had 4 shards, not 5"):
        prepare(job, workers=1, n_shards=5, resume=True, overwrite=False)
    run_job(job, processes.launch, n_shards=None)
    assert_same(output, whole)


def test_what_cannot_be_launched_is_refused(detector, captions, output, capsys):
    for more, message in {
        ("--devices", 2, "--launch", "ray"): "give one of them",
        ("--devices", 2, "--shard", "1/2"): "give one of them",
    }.items():
        assert status(*arguments_of(detector, captions, output, *more)) == 2
        assert message in capsys.readouterr().err
    assert status(*arguments_of(detector, "-", output, "--devices", 2)) == 2
    assert "need files" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cluster():
    """Start a Ray cluster of two CPUs on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_actors_of_a_ray_cluster_that_are_killed_write_the_bytes_of_one_process(
    cluster, detector, captions, whole, output
):
    kill, killed = kill_a_worker(output, random.Random(0), most=2, name="ray::Worker")
    run_job(job_of(detector, captions, output), ray_actors.launch, on_progress=kill)
    assert killed
    assert_same(output, whole)


def test_the_error_of_an_actor_is_that_of_the_command(cluster, detector, captions, output):
    with pytest.raises(DataError, match="--on-error skip sets such records aside"):
        run_job(job_of(detector, captions, output, stop_on_error=True), ray_actors.launch)


def test_without_ray_it_says_what_to_install(detector, captions, output, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert status(*arguments_of(detector, captions, output, "--launch", "ray")) == 2
    assert "pip install 'halspan[ray]'" in capsys.readouterr().err
