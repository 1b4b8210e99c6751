"""Links and pipes where halspan writes beside foreign files; `experiments/review/hostile.md` lists them."""

import json
import os

import pytest
from test_hostile_folders import call, outside  # noqa: F401 -- a fixture

from halspan.cli import main as halspan
from halspan.core.errors import ConfigError, DataError
from halspan.data.download.manifest import Manifest
from halspan.data.streams.records import Position
from halspan.data.streams.resumable import Paths, open_output
from halspan.evaluation.saved_run import check_results

pytestmark = pytest.mark.timeout(60)
CAPTION = {"id": "a", "image": "0.png", "generator": "g", "direction": "image_to_text", "text": "A cat."}
JUDGED = CAPTION | {"sentences": [{"start": 0, "end": 6, "label": "correct", "p_incorrect": 0.1}]}


def begin(output):
    """Score a block and stop."""
    with open_output(output, settings={}, resume=False) as opened:
        opened.append(records=[{"id": 1}], rejected=[{"line": 2}], position=Position(1, 10), counts={})


@pytest.mark.parametrize("name", ["journal", "partial", "rejected_partial"])
def test_an_interrupted_output_is_not_continued_through_a_link(tmp_path, outside, name):  # noqa: F811
    output = tmp_path / "scored.jsonl"
    begin(output)
    path = getattr(Paths(output), name)
    path.unlink()
    path.symlink_to(outside / "precious.txt")
    with pytest.raises(DataError, match="it is a link"), open_output(output, settings={}, resume=True):
        pass


@pytest.mark.parametrize("resume", [False, True])
def test_a_journal_is_a_file(tmp_path, outside, resume):  # noqa: F811
    output = tmp_path / "scored.jsonl"
    Paths(output).journal.symlink_to(outside / "new.txt")
    with pytest.raises(DataError, match="it is a link"), open_output(output, settings={}, resume=resume):
        pass
    Paths(output).journal.unlink()
    os.mkfifo(Paths(output).journal)
    with pytest.raises(DataError, match="it is a named pipe"), open_output(output, settings={}, resume=resume):
        pass


def test_downloads_go_below_the_folder_of_the_images(tmp_path, outside):  # noqa: F811
    (tmp_path / "downloaded").symlink_to(outside)
    (outside / ".notes.tmp").touch()
    with pytest.raises(DataError, match=r"is a link to .*outside, and downloads go below"):
        Manifest(tmp_path / "downloaded")
    (outside / ".notes.tmp").unlink()


def spoil_manifest(folder, outside):  # noqa: F811
    (folder / "manifest.jsonl").symlink_to(outside / "precious.txt")
    return "it is a link"


def pipe_manifest(folder, _):
    os.mkfifo(folder / "manifest.jsonl")
    return "it is a named pipe"


def endless_manifest(folder, _):
    (folder / "manifest.jsonl").touch()
    os.truncate(folder / "manifest.jsonl", 2**40)
    return "has 1,099,511,627,776 bytes"


@pytest.mark.parametrize("spoil", [spoil_manifest, pipe_manifest, endless_manifest])
def test_a_manifest_is_a_file_of_its_own(tmp_path, outside, spoil):  # noqa: F811
    with pytest.raises(DataError, match=spoil(tmp_path, outside)):
        Manifest(tmp_path)


LINES = [
    {"url": ["http://a/0.png"], "state": "there"},
    {"url": "http://a/0.png", "state": "elsewhere"},
    {"url": "http://a/0.png", "state": "there", "file": "../precious.txt", "size": 4},
    {"url": "http://a/0.png", "state": "dead", "reason": "\x1b[2J"},
    {"url": "http://a/0.png", "state": "dead", "status": "[/red]"},
]


@pytest.mark.parametrize("line", [*map(json.dumps, LINES), "[" * 100_000])
def test_a_line_that_no_download_wrote_says_nothing(tmp_path, line):
    good = {"url": "http://a/1.png", "state": "dead", "reason": "status 404"}
    (tmp_path / "manifest.jsonl").write_text(f"{line}\n{json.dumps(good)}\n")
    with Manifest(tmp_path) as manifest:
        assert list(manifest.outcomes) == ["http://a/1.png"]


def test_figures_do_not_follow_a_link_beside_the_predictions(tmp_path, outside, capsys):  # noqa: F811
    (tmp_path / "scored.jsonl").write_text(json.dumps(JUDGED) + "\n")
    (tmp_path / "scored").symlink_to(outside)
    with pytest.raises(SystemExit, match="2"):
        halspan(["judge", str(tmp_path / "scored.jsonl")])
    assert "where the results go, is a link to " in capsys.readouterr().err


def test_the_average_of_runs_does_not_follow_a_link_beside_them(tmp_path, outside, capfd):  # noqa: F811
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a+b").symlink_to(outside)
    status, error = call(capfd, "evaluate", f"run=[{tmp_path / 'a'},{tmp_path / 'b'}]")
    assert status == 2
    assert error.startswith(f"error: to: {tmp_path / 'a+b'}, where the results go, is a link to {outside}")


def test_results_do_not_follow_a_link_in_their_folder(tmp_path, outside):  # noqa: F811
    check_results(tmp_path / "results")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/baselines").symlink_to(outside)
    with pytest.raises(ConfigError, match="is a link out of"):
        check_results(tmp_path / "results")
