"""Tests of `halspan data download`, on a server of this machine."""

import json
import signal
import subprocess
import sys
from functools import partial

import pytest
from misbehaving_server import picture, send, serving

from halspan.cli import main
from halspan.data.download import fetch as download
from halspan.data.readers.alignbench import AlignBench

SCRIPT = """
import sys
from functools import partial
from halspan.cli import main
from halspan.data.download import fetch as download
download.Downloader = partial(download.Downloader, allow_loopback=True, back_off_seconds=0.01)
main(sys.argv[1:])
"""


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def run(capsys, monkeypatch):
    """Run `halspan data` with arguments, allowed to reach this machine; gives exit status and standard output."""
    allowed = partial(download.Downloader, allow_loopback=True, back_off_seconds=0.01)
    monkeypatch.setattr(download, "Downloader", allowed)

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out + captured.err

    return run


@pytest.fixture
def bench(tmp_path):
    """Write a folder of AlignBench rows about images at addresses."""

    def bench(*urls):
        folder = tmp_path / "bench"
        folder.mkdir()
        row = {"model": "llava", "sentence_index": 0, "caption": "A man.", "annotation": "correct"}
        lines = [json.dumps(row | {"image_url": url}) for url in urls]
        (folder / "halcap_bench.jsonl").write_text("\n".join(lines))
        return folder

    return bench


def test_a_folder_of_links_becomes_a_corpus_that_the_other_commands_read(run, server, bench):
    folder = bench(*(server.page(f"/{number}/a.png", picture(number)) for number in range(3)))
    code, out = run("download", folder)
    assert code == 0
    assert "3 of 3 images (0.0 MiB) are in" in out
    code, out = run("check", folder)
    assert (code, "3 captions of 3 images" in out, "problem:" in out) == (0, True, False)
    assert run("stats", folder)[0] == 0


def test_images_in_a_folder_of_their_own_are_found_there(run, server, bench, tmp_path):
    folder = bench(server.page("/a.png", picture()))
    assert run("download", folder, "--to", tmp_path / "photos")[0] == 0
    assert run("check", folder, "--images", tmp_path / "photos")[0] == 0


def test_reasons_are_counted_and_dead_images_are_no_failure(run, server, bench):
    folder = bench(server.page("/a.png", picture()), server.url("/dead.png"), server.url("/dead2.png"))
    code, out = run("download", folder)
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in out.splitlines() if line.startswith("│")]
    assert code == 0
    assert rows == [["there", "", "1"], ["dead", "HTTP 404", "2"]]


def test_what_is_refused_is_exit_status_1_with_its_reason(run, server, bench):
    folder = bench(server.page("/a.jpg", b"<html>", Content_Type="text/html"), "http://10.0.0.1/a.jpg")
    code, out = run("download", folder)
    assert code == 1
    assert "is not an image that can be read but text/html" in out
    assert "not on the public internet" in out


def test_an_image_above_the_size_given_is_refused(run, server, bench):
    folder = bench(server.page("/a.png", picture(), Content_Length=str(3 * 2**20)))
    code, out = run("download", folder, "--max-mib", "2")
    assert (code, "more than 2 MiB" in out) == (1, True)


def test_dead_images_are_asked_for_again_without_the_manifest(run, server, bench):
    folder = bench(server.url("/a.png"))
    run("download", folder)
    server.page("/a.png", picture())
    assert "0 of 1 images" in run("download", folder)[1]
    (folder / "downloaded/manifest.jsonl").unlink()
    assert "1 of 1 images" in run("download", folder)[1]


def test_what_does_not_answer_is_exit_status_1_and_says_how_to_go_on(run, server, bench):
    folder = bench(server.page("/a.png", status=503, Retry_After="3600"))
    code, out = run("download", folder)
    assert (code, server.asked["/a.png"]) == (1, 1)
    assert "1 gave no answer; the same command asks them once more." in out


def test_one_image_from_many_addresses_is_pointed_out(run, server, bench):
    folder = bench(*(server.page(f"/{number}.png", picture()) for number in range(5)))
    assert "5 addresses gave the same image; look at" in run("download", folder)[1]


def test_a_corpus_that_links_to_nothing_needs_nothing(run, bench, tmp_path):
    folder = bench()
    (folder / "images").mkdir()
    (folder / "images/1.png").write_bytes(picture())
    row = {"model": "sd", "sentence_index": 0, "caption": "A.", "annotation": "correct"}
    (folder / "halcap_bench.jsonl").write_text(json.dumps(row | {"image_path_in_repo": "images/1.png"}))
    code, out = run("download", folder)
    assert (code, "nothing to fetch" in out) == (0, True)
    assert not (folder / "downloaded").exists()


def test_without_a_corpus_of_ones_own_a_folder_is_needed(run):
    code, out = run("download")
    assert (code, "--to: missing" in out) == (2, True)


def test_a_corpus_without_addresses_is_named(run, tmp_path):
    (tmp_path / "chocolate.json").write_text("[]")
    code, out = run("download", tmp_path)
    assert (code, "chocolate holds no addresses" in out) == (2, True)


@pytest.mark.parametrize("before", [[], ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]])  # as `nohup ... &` starts it
def test_ctrl_c_leaves_what_the_next_run_goes_on_from(server, bench, before):
    def slowly(handler):
        server.ending.wait(0.05)
        send(handler, picture())

    server.pages.update({f"/{number}.png": slowly for number in range(40)})
    folder = bench(*(server.url(f"/{number}.png") for number in range(40)))
    command = [sys.executable, "-c", SCRIPT, "data", "download", folder, "--per-host", "2"]
    process = subprocess.Popen([*before, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(server.asked) < 6:
        assert process.poll() is None
        server.ending.wait(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert "Interrupted; the same command continues from here." in out
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "40 of 40 images" in again.stdout
    assert sum(server.asked.values()) <= 42  # two were under way
    assert len(AlignBench(path=folder).load().captions) == 40
