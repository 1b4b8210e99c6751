import base64
import hashlib
import io
import json
import os
import sys
from pathlib import Path

import pytest

from halspan.core.captions import Prediction, SentenceScore
from halspan.core.errors import ConfigError, DataError
from halspan.data.download.addresses import downloaded_file
from halspan.data.streams import records as stream
from halspan.data.streams.records import BLOCK, ItemReader, JsonLinesFile, JsonLinesStream, Position, Shard, scan

START, ALL = Position(), Shard()


@pytest.fixture
def file(tmp_path, paint, record, write_lines):
    paint(tmp_path / "1.png")
    return write_lines(tmp_path / "captions.jsonl", [record(id=f"a/{number}") for number in range(5)])


def raw_records(file, start=START, shard=ALL):
    return list(JsonLinesFile(file).read(start, shard))


def items(file, folder=None):
    reader = ItemReader(file.parent, folder or file.parent)
    return [reader.read(raw) for raw in raw_records(file)]


def test_reading_goes_on_from_any_record(file):
    whole = raw_records(file)
    for number in range(5):
        assert raw_records(file, whole[number].position) == whole[number + 1 :]
    assert whole[-1].position == Position(5, file.stat().st_size)


def test_blank_lines_are_no_records_but_count_as_lines(file):
    file.write_bytes(b"\n \n" + file.read_bytes())
    assert [raw.position.number for raw in raw_records(file)] == [3, 4, 5, 6, 7]
    assert JsonLinesFile(file).total == 7


def test_the_last_line_needs_no_line_break(file):
    file.write_bytes(file.read_bytes().rstrip())
    assert JsonLinesFile(file).total == len(raw_records(file)) == 5


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"nonsense", "not JSON"),
        (b'{"id": "caf\xe9"}', "is not UTF-8"),
        (b"[1, 2]", "is a list, not an object"),
        (b'{"id": ' + b"1" * 5000 + b"}", "4300 digits"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_object_is_a_record_with_a_problem(file, line, problem):
    first = raw_records(file)[0]
    file.write_bytes(line + b"\n" + file.read_bytes())
    bad, *others = raw_records(file)
    assert problem in bad.problem
    assert bad.content is None
    assert bad.n_bytes == len(line) + 1
    assert len(bad.raw) <= 2001
    assert others[0].content == first.content


def test_a_line_beyond_the_limit_is_passed_over_without_being_held(file, monkeypatch):
    monkeypatch.setattr(stream, "MOST_LINE_BYTES", 1000)
    file.write_bytes(b'{"id": "' + b"x" * 5000 + b'"}\n' + file.read_bytes())
    bad, *others = raw_records(file)
    assert "the line has 5,011 bytes, more than 1,000" in bad.problem
    assert len(others) == 5
    assert raw_records(file, bad.position) == others


def test_a_stream_is_read_as_a_file_is(file):
    source = JsonLinesStream(io.BytesIO(file.read_bytes()), "standard input")
    assert list(source.read(START, ALL)) == raw_records(file)
    assert source.total is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shards_together_are_all_records_and_each_knows_its_size(tmp_path, write_lines, count):
    n = 3 * BLOCK + 7
    file = write_lines(tmp_path / "captions.jsonl", [{"id": number} for number in range(n)])
    shards = [Shard(index + 1, count) for index in range(count)]
    parts = [[raw.position.number for raw in raw_records(file, shard=shard)] for shard in shards]
    assert sorted(number for part in parts for number in part) == list(range(1, n + 1))
    assert [len(part) for part in parts] == [shard.size(n) for shard in shards]
    assert [part[0] for part in parts] == [1 + BLOCK * index for index in range(count)]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "-1/2", "1/0", ""])
def test_a_shard_that_does_not_exist_is_an_error(text):
    with pytest.raises(ConfigError, match="the shards of 4 are 1/4, 2/4, 3/4 and 4/4"):
        Shard.parse(text)


def test_an_image_path_is_rewritten_for_where_the_caption_goes_and_an_absolute_one_kept(file, tmp_path, record):
    image = tmp_path / "1.png"
    file.write_text(json.dumps(record()) + "\n" + json.dumps(record(image=str(image))) + "\n")
    relative, absolute = items(file, tmp_path / "out" / "deep")
    assert relative.caption.image == "../../1.png"
    assert absolute.caption.image == str(image)
    assert relative.key == absolute.key == image


def test_an_image_inside_the_record_is_told_by_its_content(file, tmp_path, record):
    data = (tmp_path / "1.png").read_bytes()
    inside = record(image_base64=base64.b64encode(data).decode())
    del inside["image"]
    file.write_text(json.dumps(inside) + "\n")
    (item,) = items(file)
    assert item.caption.image == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert item.load_image().size == (4, 4)


def test_who_has_only_an_image_and_a_text_need_write_no_more(file):
    file.write_text('\n{"image": "1.png", "text": "It is red. It is.", "id": null}\n')
    (item,) = items(file)
    caption = item.caption
    assert (caption.id, caption.generator, caption.direction) == ("2", "unknown", "image_to_text")
    assert len(caption.sentences) == 2


def test_labels_are_carried_along_and_earlier_predictions_are_not(file):
    caption = items(file)[0].caption
    prediction = Prediction(caption, (SentenceScore(0.5), SentenceScore(None, "too long")))
    file.write_text(json.dumps(prediction.to_record()) + "\n")
    assert items(file)[0].caption == caption


def test_a_label_that_cannot_be_used_is_left_out_and_named_since_scoring_needs_none(file, record):
    first, second = record()["sentences"]
    file.write_text(json.dumps(record(sentences=[first | {"label": "Correct"}, second])) + "\n")
    (item,) = items(file)
    assert [sentence.label for sentence in item.caption.sentences] == [None, "incorrect"]
    (problem,) = item.left_out
    assert problem.startswith("sentences[0].label: 'Correct' is not possible; did you mean correct?")


UNUSABLE = {
    "overlapping sentences": ({"sentences": [{"start": 0, "end": 9}, {"start": 5, "end": 12}]}, "must not overlap"),
    "no image": ({"image": None}, "image: missing; give its path, or the image itself as image_base64"),
    "not base64": ({"image_base64": "å"}, "image_base64: 'å' is not base64"),
    "bytes as text": ({"image_bytes": "abc"}, "image_bytes: 'abc' is a string, not bytes"),
    "unknown key": ({"sentances": []}, "sentances: unknown key"),
    "empty text": ({"text": " "}, "text: ' ' is empty"),
    "a book": ({"text": "word " * 300_000}, "1,500,000 characters are more than 1,000,000"),
    "image of wrong type": ({"image": 3}, "image: 3 is an integer, not text"),
}


@pytest.mark.parametrize(("change", "problem"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_record_that_is_no_caption_says_why(file, record, change, problem):
    file.write_text(json.dumps(record(**change)) + "\n")
    with pytest.raises(DataError, match=problem):
        items(file)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("nowhere.png", "does not exist"),
        ("captions.jsonl", "is not an image"),
        (".", "is not a file"),
        ("pipe", "is not a file"),
        ("x" * 5000, "cannot be read .File name too long"),
        ("a\0b.png", "cannot be read .embedded null byte"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_an_image_that_cannot_be_read_says_why(file, record, image, problem):
    os.mkfifo(file.parent / "pipe")
    file.write_text(json.dumps(record(image=image)) + "\n")
    with pytest.raises(DataError, match=problem):
        items(file)[0].load_image()


def test_a_damaged_image_inside_a_record_says_why(file, record):
    data = (file.parent / "1.png").read_bytes()[:-30]
    file.write_text(json.dumps(record(image_base64=base64.b64encode(data).decode())) + "\n")
    with pytest.raises(DataError, match="image in memory: cannot be decoded"):
        items(file)[0].load_image()


def test_a_rejected_record_is_kept_in_a_form_that_a_file_can_hold(file):
    file.write_text('{"\\ud800": 1}\n')
    (raw,) = raw_records(file)
    with pytest.raises(DataError) as error:
        ItemReader(file.parent, file.parent).read(raw)
    rejected = raw.reject(str(error.value))
    assert json.dumps(rejected, ensure_ascii=False).encode()
    assert rejected["line"] == 1
    assert rejected["record"] == '{"\\ud800": 1}'


def test_a_changed_byte_changes_what_tells_a_file_from_others(file):
    before, n_lines = scan(file)
    file.write_bytes(file.read_bytes().replace(b"rides", b"rodes", 1))
    after, _ = scan(file)
    assert n_lines == 5
    assert before["bytes"] == after["bytes"]
    assert before != after


def test_a_file_that_is_not_there_is_an_error():
    with pytest.raises(DataError, match=r"nowhere\.jsonl: cannot be read .No such file"):
        JsonLinesFile(Path("nowhere.jsonl"))


def test_an_image_that_is_an_address_is_looked_for_where_downloads_go(file, record, paint):
    url = "https://example.org/a/photo.png"
    file.write_text(json.dumps(record(image=url)) + "\n")
    path = paint(file.parent / downloaded_file(url))
    (item,) = items(file)
    assert item.key == path
    assert item.load_image().size == (4, 4)
