"""Parts and journals in a folder of many people: damaged, forged, replaced while they are merged, or links."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest
from small_scoring import arguments_of, records, write_captions
from test_scoring_shards import job_of, write_parts

from halspan.core.errors import ConfigError, DataError
from halspan.data.streams import merging
from halspan.data.streams import records as stream
from halspan.data.streams.merging import merge_parts
from halspan.data.streams.parts import find_parts, part_of
from halspan.data.streams.records import Shard
from halspan.data.streams.resumable import Paths, locked_journal, open_output
from halspan.scoring.shards import prepare, run_all

pytestmark = pytest.mark.timeout(120)
EXPECTED = [{"block": block} for block in range(8) for _ in range(block % 3)]


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "scored.jsonl"


def paths_of(output, index, count):
    return Paths(part_of(output, Shard(index, count)))


@pytest.mark.parametrize("name", ["partial", "rejected_partial", "converted"])
def test_a_merge_writes_through_no_link(output, tmp_path, name):
    write_parts(output, 2)
    mine = tmp_path / "mine.txt"
    mine.write_text("my text\n")
    getattr(Paths(output), name).symlink_to(mine)
    merge_parts(output, lambda source, target: target.write_bytes(source.read_bytes()))
    assert mine.read_text() == "my text\n"
    assert not output.is_symlink()
    assert records(output) == EXPECTED


@pytest.mark.parametrize("name", ["partial", "rejected_partial", "journal"])
def test_a_part_that_is_a_link_is_not_read(output, tmp_path, name):
    write_parts(output, 2)
    part = getattr(paths_of(output, 2, 2), name)
    part.rename(tmp_path / "mine")
    part.symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match=r"2-of-2.*: cannot be read \(it is a link, and nothing is read through one\)"):
        merge_parts(output)
    assert not output.exists()


def test_a_part_that_is_a_pipe_is_not_waited_for(output):
    write_parts(output, 2)
    part = paths_of(output, 2, 2).partial
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(DataError, match=r"2-of-2.*: cannot be read \(it is a named pipe, not a file\)"):
        merge_parts(output)


def test_a_part_that_is_being_scored_again_is_not_merged(output):
    write_parts(output, 3)
    part = part_of(output, Shard(2, 3))
    settings = find_parts(output)[1].settings
    with open_output(part, settings=settings, resume=True):
        with pytest.raises(ConfigError, match=r"another process is writing .*2-of-3"):
            merge_parts(output)
        assert len(find_parts(output)) == 3
        assert not output.exists()


def test_a_part_that_is_scored_again_while_it_is_merged_stays_and_nothing_is_mixed(output, monkeypatch):
    write_parts(output, 3)
    join = merging._join

    def join_late(parts, paths):
        write_parts(output, 3, lacks=(1, 3), settings={2: {"--threads": 4}})
        return join(parts, paths)

    monkeypatch.setattr(merging, "_join", join_late)
    with pytest.raises(ConfigError, match="shard 2/3 was merged or scored again meanwhile"):
        merge_parts(output)
    assert not output.exists()
    assert [part.settings["--threads"] for part in find_parts(output)] == [1, 4, 1]


def test_names_that_no_shard_writes_are_no_parts(output):
    write_parts(output, 2)
    journal = paths_of(output, 1, 2).journal.read_bytes()
    for name in ("01-of-2", "1-of-02", "3-of-2", "0-of-2", "1-of-9999999999", "1-of-" + "9" * 100):
        output.with_name(f"scored.jsonl.{name}.jsonl.journal").write_bytes(journal)
    assert len(find_parts(output)) == 2
    merge_parts(output)
    assert records(output) == EXPECTED


def test_a_part_under_the_name_of_another_is_not_merged(output):
    write_parts(output, 2)
    for name in ("partial", "rejected_partial", "journal"):
        getattr(paths_of(output, 1, 2), name).replace(getattr(paths_of(output, 2, 2), name))
    write_parts(output, 2, lacks=(2,))
    with pytest.raises(ConfigError, match=r"2-of-2.* is of shard 1/2, not 2/2"):
        merge_parts(output)


def test_of_many_missing_shards_some_are_named(output):
    write_parts(output, 1000, lacks=range(2, 1001))
    with pytest.raises(ConfigError, match=r"lacks the shards 2/1000, .*, 21/1000 and 979 more; score"):
        merge_parts(output)


MARK = {"position": {"number": 1, "offset": 0}, "counts": {"scored": 1}, "output_bytes": 1, "rejected_bytes": 0}
DAMAGES = {
    "settings that are none": ('{"settings": 5}', MARK),
    "no settings": ("{}", MARK),
    "a list": ("[]", MARK),
    "a number beyond 64 bits": ('{"settings": {}}', MARK | {"output_bytes": 2**70}),
    "a number that is text": ('{"settings": {}}', MARK | {"output_bytes": "1"}),
    "a number below 0": ('{"settings": {}}', MARK | {"rejected_bytes": -1}),
    "counts of something else": ('{"settings": {}}', MARK | {"counts": {"scored": "x"}}),
    "nothing but brackets": ('{"settings": ' + "[" * 100_000, MARK),
}


@pytest.mark.parametrize(("settings", "mark"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_journal_is_named_by_merges_and_when_it_is_continued(output, settings, mark):
    write_parts(output, 2)
    paths = paths_of(output, 1, 2)
    paths.journal.write_text(f"{settings}\n{json.dumps(mark | {'is_complete': True})}\n")
    with pytest.raises(DataError, match=r"1-of-2\.jsonl\.journal: is damaged"):
        merge_parts(output)
    with (
        pytest.raises(DataError, match=r"1-of-2\.jsonl\.journal: is damaged"),
        open_output(paths.output, settings={}, resume=True),
    ):
        pass
    assert not output.exists()


def test_a_journal_that_was_removed_by_its_process_is_no_lock_for_the_next(output):
    paths = Paths(output)
    entered = []

    def wait():
        with locked_journal(paths, patience=60) as journal:
            entered.append(os.path.samestat(os.fstat(journal.fileno()), paths.journal.stat()))

    with locked_journal(paths):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.5)  # it has opened the journal
        paths.journal.unlink()
    waiting.join(60)
    assert entered == [True]


def test_a_file_system_without_locks_is_one_line(output, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(DataError, match=r"\(Function not implemented\); choose another place"),
        open_output(output, settings={}, resume=False),
    ):
        pass


def test_what_another_process_scores_is_not_removed(output, detector, tmp_path):
    write_parts(output, 2)
    job = job_of(detector, tmp_path / "captions.jsonl", output)
    with locked_journal(paths_of(output, 2, 2)), pytest.raises(ConfigError, match="another process is writing"):
        prepare(job, workers=1, n_shards=None, resume=False, overwrite=True)
    assert [str(part.shard) for part in find_parts(output)] == ["2/2"]


def test_what_one_process_has_left_is_not_lost_to_several(output, detector, tmp_path):
    with open_output(output, settings={}, resume=False) as opened:
        opened.append(records=[{}], rejected=[], position=stream.Position(1), counts={})
    job = job_of(detector, tmp_path / "captions.jsonl", output)
    with pytest.raises(ConfigError, match="continue it by --resume, without --devices and --launch"):
        prepare(job, workers=1, n_shards=None, resume=True, overwrite=False)
    assert Paths(output).has_unfinished()
    prepare(job, workers=1, n_shards=None, resume=False, overwrite=True)
    assert not Paths(output).has_unfinished()


def test_a_merge_that_fails_leaves_nothing_that_one_process_would_continue(output):
    with open_output(output, settings={}, resume=False) as opened:
        opened.append(records=[{"own": 1}], rejected=[], position=stream.Position(1), counts={})
    write_parts(output, 2)
    partial = paths_of(output, 2, 2).partial
    partial.write_bytes(partial.read_bytes()[:-1])
    with pytest.raises(DataError, match="are missing"):
        merge_parts(output)
    assert not Paths(output).has_unfinished()


def test_the_device_of_complete_parts_is_that_of_the_workers(output, detector, tmp_path, monkeypatch):
    captions = write_captions(tmp_path / "in" / "captions.jsonl", 3, per_image=3)
    job = job_of(detector, captions, output)
    for shard in (Shard(1, 2), Shard(2, 2)):
        job.run(shard, resume=False)
        journal = Paths(part_of(output, shard)).journal
        journal.write_bytes(journal.read_bytes().replace(b'"--device": "cpu"', b'"--device": "cuda"'))
    job = replace(job, device=None)
    shards = prepare(job, workers=1, n_shards=None, resume=True, overwrite=False)
    run_all(job, shards, workers=1, launch=None, on_start=lambda _: None, on_progress=lambda _: None)
    assert len(records(output)) == 3


def test_processes_end_with_the_one_that_started_them(detector, output, tmp_path):
    captions = write_captions(tmp_path / "in" / "captions.jsonl", 60 * stream.BLOCK, per_image=3)
    words = arguments_of(detector, captions, output, "--devices", 2, "--shards", 2)
    first = subprocess.Popen([sys.executable, "-c", f"from halspan.cli import main; main({words!r})"])
    try:
        latest = time.monotonic() + 90
        while not find_parts(output) if output.parent.exists() else True:
            assert time.monotonic() < latest
            assert first.poll() is None
            time.sleep(0.1)
        others = psutil.Process(first.pid).children(recursive=True)
        assert len(others) >= 2
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    _, left = psutil.wait_procs(others, timeout=10)
    for process in left:
        process.kill()
    assert not left
