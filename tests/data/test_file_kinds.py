"""Tests of files that are not JSON Lines: each is told what it is, and the command given makes JSON Lines of it."""

import csv
import gzip
import io
import json
import re
import shutil
import subprocess
import sys

import pytest

from halspan.core.errors import DataError
from halspan.data.corpus import Skips
from halspan.data.readers.formats import detect_format
from halspan.data.readers.jsonl import JsonLines, read_objects


def as_table(records, delimiter=","):
    rows = io.StringIO()
    writer = csv.DictWriter(rows, ["id", "image", "generator", "direction", "text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return rows.getvalue().encode()


def as_parquet(records):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(records), buffer)
    return buffer.getvalue()


def as_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


KINDS = {
    "Parquet": (as_parquet, "is Parquet, not JSON Lines"),
    "CSV": (as_table, r"is a table \(CSV\), not JSON Lines"),
    "CSV of a spreadsheet": (lambda records: b"\xef\xbb\xbf" + as_table(records, ";"), r"is a table \(CSV\)"),
    "tabs": (lambda records: as_table(records, "\t"), r"is a table \(CSV\)"),
    "JSON array": (lambda records: json.dumps(records).encode(), "is a JSON array, not JSON Lines"),
    "indented JSON array": (lambda records: json.dumps(records, indent=2).encode(), "is a JSON array"),
    "an indented object": (
        lambda records: json.dumps(records[0], indent=2).encode(),
        "is one JSON object over several lines",
    ),
    "UTF-16": (lambda records: as_lines(records).encode("utf-16"), "is UTF-16, not JSON Lines"),
    "UTF-16 without a mark": (lambda records: as_lines(records).encode("utf-16-le"), "is UTF-16, not JSON Lines"),
    "gzip": (lambda records: gzip.compress(as_lines(records).encode()), "is compressed with gzip, not JSON Lines"),
}


@pytest.fixture
def records():
    place = {"image": "1.png", "generator": "a", "direction": "image_to_text"}
    return [{"id": str(number), **place, "text": f"A man, {number} \u201chats\u201d."} for number in range(2)]


@pytest.mark.parametrize(("write", "kind"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_of_another_kind_is_told_what_it_is(tmp_path, records, write, kind, on_error):
    file = tmp_path / "captions.jsonl"
    file.write_bytes(write(records))
    with pytest.raises(DataError, match=rf"captions\.jsonl: {kind}.*; convert it: .* > converted\.jsonl$"):
        JsonLines(path=file, on_error=on_error).load()


@pytest.mark.parametrize("name", ["CSV", "tabs", "CSV of a spreadsheet", "indented JSON array", "gzip", "UTF-16"])
def test_the_command_that_is_given_converts_the_file(tmp_path, records, paint, name):
    file = tmp_path / "the captions.txt"
    file.write_bytes(KINDS[name][0](records))
    paint(tmp_path / "1.png")
    with pytest.raises(DataError) as error:
        JsonLines(path=file).load()
    command = str(error.value).partition("convert it: ")[2]
    if (tool := command.split()[0]) != "python" and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    command = re.sub("^python ", f"{sys.executable} ", command)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    corpus = JsonLines(path=tmp_path / "converted.jsonl").load()
    assert [caption.text for caption in corpus.captions] == [record["text"] for record in records]


def test_other_formats_of_captions_are_named_with_their_reader(tmp_path):
    file = tmp_path / "captions.jsonl"
    file.write_text(json.dumps([{"sentences": [], "labels": [], "model": "a", "image_path": "x", "_id": "1"}]))
    with pytest.raises(DataError, match=r"CHOCOLATE's list of captions.*data=choc.*halspan data convert .*converted"):
        JsonLines(path=file).load()
    file.write_text(json.dumps({"model": "a", "sentence_index": 0, "caption": "A", "annotation": "correct"}))
    with pytest.raises(DataError, match=r":1: is a row in AlignBench's columns, not a caption; read it with data="):
        JsonLines(path=file).load()


def test_captions_in_a_json_file_are_not_taken_for_chocolate(tmp_path, records):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(records))
    assert detect_format(file) == "jsonl"


@pytest.mark.parametrize("line", ["[1, 2]", "word, word", '{"id": "a", "text": "b"}', "", '{"a": [{}]}'])
def test_lines_that_are_merely_malformed_are_left_to_the_reader(tmp_path, line):
    file = tmp_path / "captions.jsonl"
    file.write_text(line + '\n{"id": 1}\n')
    assert [record for _, record in read_objects(file, Skips("skip"))][-1] == {"id": 1}
