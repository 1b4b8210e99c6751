"""Tests of which reader a corpus is given: by its first record, else by the name of its file."""

import json

import pytest

from halspan.core.errors import ConfigError, DataError
from halspan.data.download.links import find_links
from halspan.data.readers.formats import detect_format, find_file
from halspan.data.readers.registry import PUBLISHED, READERS, find_linking_reader, find_published_reader, find_reader

CAPTION = {"id": "1", "image": "1.png", "generator": "anna", "direction": "image_to_text", "text": "A man."}
ROW = {"model": "llava", "image_name": "1.png", "sentence_index": 0, "caption": "A man.", "annotation": "correct"}
CHART = {"_id": "1", "image_path": "1.png", "model": "bard", "sentences": ["A line."], "labels": [[]]}


@pytest.mark.parametrize(
    ("name", "content", "reader"),
    [
        ("captions.jsonl", json.dumps(CAPTION), "jsonl"),
        ("captions.json", json.dumps(CAPTION), "jsonl"),
        ("captions.json", json.dumps([CAPTION]), "jsonl"),  # which says how to convert it
        ("any.jsonl", json.dumps(ROW), "alignbench"),
        ("chocolate.json", json.dumps([CHART]), "chocolate"),
        ("charts.jsonl", json.dumps([CHART], indent=1), "chocolate"),
        ("any.jsonl", "{", "jsonl"),
        ("any.json", "{", "chocolate"),
        ("any.txt", "", "jsonl"),
    ],
)
def test_a_file_is_recognized_by_its_beginning_else_by_its_name(tmp_path, name, content, reader):
    (tmp_path / name).write_text(content)
    assert detect_format(tmp_path / name) == reader


def test_in_a_folder_whole_names_come_before_patterns_and_lines_before_lists(tmp_path):
    for name in ("notes.json", "captions.jsonl", "halcap_bench.jsonl", "chocolate.json"):
        (tmp_path / name).write_text("{}")
    for name in ("chocolate.json", "halcap_bench.jsonl", "captions.jsonl", "notes.json"):
        assert find_file(tmp_path).name == name
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"holds no corpus \(chocolate.json or halcap_bench.jsonl or \*.jsonl or \*"):
        find_file(tmp_path)


@pytest.mark.parametrize("name", READERS.names())
def test_a_reader_says_what_it_can_do(name):
    reader = find_reader(name)
    assert {"path", "images", "on_error", "missing_image", "min_images"} <= reader.__dataclass_fields__.keys()
    has_own = reader.__dataclass_fields__["path"].default is None
    assert (find_published_reader(name) is not None) == has_own
    assert has_own == (name == PUBLISHED)
    assert (find_linking_reader(name) is not None) == (name in ("jsonl", "alignbench"))


def test_links_of_a_corpus_that_holds_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="chocolate holds no addresses of images; alignbench and jsonl may"):
        find_links(tmp_path, "chocolate")
