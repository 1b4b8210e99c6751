import contextlib
import json
import math
import os
import socket
import sys

import pytest

from halspan.core.files import open_regular, remove_unfinished, replacing, write_json, write_text


def test_a_file_is_replaced_only_when_all_of_it_was_written(tmp_path):
    path = tmp_path / "folder" / "report.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012 -- the block is what is tested
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_json_keeps_letters_and_refuses_what_json_has_no_word_for(tmp_path):
    write_json(tmp_path / "a.json", {"text": "été"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "text": "été"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert json.loads((tmp_path / "a.json").read_text()) == {"text": "été"}


def test_a_regular_file_is_opened_and_read(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_nothing_but_a_regular_file_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "loop").symlink_to("loop")
    listener = socket.socket(socket.AF_UNIX)
    with listener, contextlib.chdir(tmp_path):  # the path of a socket has at most 107 bytes
        listener.bind("socket")
    problems = {
        "pipe": "it is a named pipe, not a file",
        "link": "it is a named pipe, not a file",
        "socket": "it is a socket, not a file",
        "/dev/zero": "it is a device, not a file",
        ".": "Is a directory",
        "loop": "Too many levels of symbolic links",
        "x" * 300: "File name too long",
        "a\0b": "embedded null byte",
    }
    for name, problem in problems.items():
        with pytest.raises(OSError, match=problem) as error:
            open_regular(tmp_path / name)
        assert error.value.strerror == problem


def test_a_link_that_waits_for_a_temporary_file_is_not_written_through(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    (tmp_path / f".metrics.json.{os.getpid()}.tmp").symlink_to(tmp_path / "precious.txt")
    write_text(tmp_path / "metrics.json", "{}")
    assert (tmp_path / "metrics.json").read_text() == "{}"
    assert (tmp_path / "precious.txt").read_text() == "keep"


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    left = [".metrics.json.123.tmp", "predictions/.val.jsonl.7.tmp"]
    kept = [".notes.tmp", "a.123.tmp", "metrics.json", ".metrics.json.123.tmp.bak"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".folder.1.tmp").mkdir()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert (tmp_path / ".folder.1.tmp").is_dir()
