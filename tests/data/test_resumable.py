import json
import os

import pytest

from halspan.core.errors import ConfigError, DataError
from halspan.data.streams.records import Position
from halspan.data.streams.resumable import Mark, Paths, fingerprint_folder, open_output

SETTINGS = {"--input's bytes": 10, "--batch-tokens": 5}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "new" / "scored.jsonl"


def append(opened, number, *, rejected=()):
    opened.append(
        records=[{"id": number}],
        rejected=rejected,
        position=Position(number, 10 * number),
        counts={"scored": number},
    )


def interrupt(output, *, blocks=2):
    with open_output(output, settings=SETTINGS, resume=False) as opened:
        for number in range(1, blocks + 1):
            append(opened, number, rejected=[{"line": number}])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(output):
    return sorted(path.name for path in output.parent.iterdir())


def test_the_output_takes_its_place_when_it_is_whole_and_nothing_else_stays(output):
    with open_output(output, settings=SETTINGS, resume=False) as opened:
        append(opened, 1)
        assert not output.exists()
        append(opened, 2, rejected=[{"line": 7}])
        opened.finish()
    assert lines(output) == [{"id": 1}, {"id": 2}]
    assert lines(Paths(output).rejected) == [{"line": 7}]
    assert names(output) == ["scored.jsonl", "scored.rejected.jsonl"]


def test_no_file_of_rejected_records_stays_where_there_are_none(output):
    output.parent.mkdir()
    Paths(output).rejected.write_text("of an earlier run\n")
    with open_output(output, settings=SETTINGS, resume=False) as opened:
        append(opened, 1)
        opened.finish()
    assert names(output) == ["scored.jsonl"]


def test_an_interrupted_output_continues_behind_its_last_block(output):
    interrupt(output)
    assert Paths(output).has_unfinished()
    with open_output(output, settings=SETTINGS, resume=True) as opened:
        assert (opened.mark.position, opened.mark.counts) == (Position(2, 20), {"scored": 2})
        append(opened, 3)
        opened.finish()
    assert lines(output) == [{"id": number} for number in (1, 2, 3)]
    assert opened.mark.counts == {"scored": 3}


@pytest.mark.parametrize("name", ["partial", "rejected_partial", "journal"])
def test_what_was_half_written_is_cut_off(output, name):
    interrupt(output)
    with getattr(Paths(output), name).open("ab") as file:
        file.write(b'{"half": ')
    with open_output(output, settings=SETTINGS, resume=True) as opened:
        append(opened, 3, rejected=[{"line": 3}])
        opened.finish()
    assert lines(output) == [{"id": number} for number in (1, 2, 3)]
    assert lines(Paths(output).rejected) == [{"line": number} for number in (1, 2, 3)]


def test_a_block_that_is_written_but_not_in_the_journal_is_done_again(output):
    interrupt(output)
    journal = Paths(output).journal
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    with open_output(output, settings=SETTINGS, resume=True) as opened:
        assert opened.mark.position.number == 1
        append(opened, 2)
        opened.finish()
    assert lines(output) == [{"id": 1}, {"id": 2}]


def test_without_resume_everything_begins_again(output):
    interrupt(output)
    with open_output(output, settings=SETTINGS, resume=False) as opened:
        assert opened.mark == Mark()
        append(opened, 9)
        opened.finish()
    assert lines(output) == [{"id": 9}]
    assert names(output) == ["scored.jsonl"]


def test_a_place_where_nothing_can_be_written_is_refused_with_another_remedy_than_a_full_disk(tmp_path):
    place = tmp_path / ("x" * 300) / "scored.jsonl"
    with (
        pytest.raises(DataError, match=r"cannot be written \(File name too long\); choose another place"),
        open_output(place, settings=SETTINGS, resume=False),
    ):
        pass


def test_another_setting_is_refused_with_its_name_and_both_values(output):
    interrupt(output)
    with (
        pytest.raises(ConfigError, match="the interrupted run had --batch-tokens 5, this one has 6; give what it had"),
        open_output(output, settings=SETTINGS | {"--batch-tokens": 6}, resume=True),
    ):
        pass
    assert Paths(output).has_unfinished()


def test_a_run_that_finished_no_block_leaves_nothing_behind(output):
    interrupt(output, blocks=0)
    assert names(output) == []


def test_interrupted_the_moment_its_first_block_is_on_disk_it_keeps_it(output, monkeypatch):
    sync, journal = os.fsync, Paths(output).journal

    def interrupt_behind_the_first_block(descriptor):
        sync(descriptor)
        if len(lines(journal)) == 2:  # its settings and a block
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt_behind_the_first_block)
    with pytest.raises(KeyboardInterrupt):
        interrupt(output)
    monkeypatch.undo()
    assert Paths(output).has_unfinished()
    with open_output(output, settings=SETTINGS, resume=True) as opened:
        assert opened.mark.position == Position(1, 10)


def test_a_run_killed_before_its_first_block_is_no_obstacle(output):
    paths = Paths(output)
    output.parent.mkdir()
    paths.journal.write_text(json.dumps({"settings": {"--batch-tokens": 7}}) + "\n")
    assert not paths.has_unfinished()
    with open_output(output, settings=SETTINGS, resume=True) as opened:
        append(opened, 1)
        opened.finish()
    assert lines(output) == [{"id": 1}]


def test_a_second_process_is_kept_out(output):
    with (
        open_output(output, settings=SETTINGS, resume=False),
        pytest.raises(ConfigError, match="another process is writing"),
        open_output(output, settings=SETTINGS, resume=True),
    ):
        pass


def test_finished_blocks_that_are_gone_are_an_error(output):
    interrupt(output)
    Paths(output).partial.write_bytes(b"")
    with (
        pytest.raises(DataError, match=r"0 bytes are left of 20 finished ones; --overwrite begins again"),
        open_output(output, settings=SETTINGS, resume=True),
    ):
        pass


def shout(source, target):
    target.write_bytes(source.read_bytes().upper())


def half(source, target):
    target.write_bytes(b"half")
    raise KeyboardInterrupt


def finish(output, convert, *, resume):
    with open_output(output, settings=SETTINGS, resume=resume) as opened:
        if not resume:
            append(opened, 1, rejected=[{"line": 1}])
        opened.finish(convert)


def test_interrupted_while_it_is_converted_it_is_converted_again(output):
    with pytest.raises(KeyboardInterrupt):
        finish(output, half, resume=False)
    assert not output.exists()
    finish(output, shout, resume=True)
    assert output.read_bytes() == b'{"ID": 1}\n'
    assert names(output) == ["scored.jsonl", "scored.rejected.jsonl"]


@pytest.mark.parametrize("convert", [None, shout])
def test_interrupted_when_all_but_the_journal_is_in_its_place_it_ends_well(output, convert, tmp_path):
    output.parent.mkdir()
    journal = Paths(output).journal
    journal.touch()
    (tmp_path / "kept").hardlink_to(journal)
    finish(output, convert, resume=False)
    (tmp_path / "kept").rename(journal)
    assert Paths(output).has_unfinished()
    before = output.read_bytes()
    finish(output, convert, resume=True)
    assert output.read_bytes() == before
    assert names(output) == ["scored.jsonl", "scored.rejected.jsonl"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataError, match="cannot be written"),
        open_output(tmp_path / "file" / "scored.jsonl", settings=SETTINGS, resume=False),
    ):
        pass


def test_a_folder_is_told_by_its_names_sizes_and_bytes(tmp_path):
    (tmp_path / "heads").write_bytes(b"1234")
    before = fingerprint_folder(tmp_path)
    assert fingerprint_folder(tmp_path) == before
    (tmp_path / "heads").write_bytes(b"1235")
    changed = fingerprint_folder(tmp_path)
    (tmp_path / "heads").rename(tmp_path / "tails")
    assert len({before, changed, fingerprint_folder(tmp_path)}) == 3
