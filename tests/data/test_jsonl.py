"""Tests of the canonical JSON Lines reader and writer."""

import json
import os
import sys

import pytest

from halspan.core.captions import Caption, Prediction
from halspan.core.errors import DataError
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.corpus import Skips
from halspan.data.readers.jsonl import JsonLines, read_objects, write_jsonl


@pytest.fixture
def corpus_file(tmp_path, paint, write_lines, record):
    """Return captions with ids a/1 and b/1 of one image."""
    paint(tmp_path / "1.png")
    return write_lines(tmp_path / "captions.jsonl", [record(), record(id="b/1", generator="b")])


def test_captions_are_read_in_the_order_of_the_file(corpus_file, record):
    corpus = JsonLines(path=corpus_file).load()
    assert [caption.id for caption in corpus.captions] == ["a/1", "b/1"]
    assert corpus.captions[0] == Caption.from_record(record())
    assert corpus.generators == ("a", "b")
    assert corpus.image_path(corpus.captions[0]) == corpus_file.parent / "1.png"
    assert corpus.source == {"reader": "jsonl", "path": str(corpus_file)}


def test_a_folder_stands_for_the_one_corpus_in_it(corpus_file):
    assert JsonLines(path=corpus_file.parent).load().name == "captions"


def test_blank_lines_and_a_byte_order_mark_are_passed_over(corpus_file):
    corpus_file.write_bytes(b"\xef\xbb\xbf" + corpus_file.read_bytes() + b"\n\n")
    assert len(JsonLines(path=corpus_file).load().captions) == 2


def test_images_resolve_from_another_folder_where_it_is_given(corpus_file, tmp_path, paint):
    (tmp_path / "1.png").unlink()
    paint(tmp_path / "photos" / "1.png")
    corpus = JsonLines(path=corpus_file, images=tmp_path / "photos").load()
    assert corpus.image_path(corpus.captions[0]) == tmp_path / "photos" / "1.png"


def test_predictions_are_captions(corpus_file, write_lines, record):
    scored = record(predicted=[{"start": 2, "end": 5, "type": None, "score": 0.7}])
    for sentence, p_incorrect in zip(scored["sentences"], (0.1, None), strict=True):
        sentence["p_incorrect"] = p_incorrect
    scored["sentences"][1]["unscored"] = "too long"
    write_lines(corpus_file, [scored])
    assert JsonLines(path=corpus_file).load().captions == (Prediction.from_record(scored).caption,)


def test_the_taxonomy_is_alignbenchs_where_it_holds_every_type(corpus_file):
    assert JsonLines(path=corpus_file).load().taxonomy == HALLUCINATION_TYPES


def test_other_types_make_a_taxonomy_of_their_own(corpus_file, write_lines, record):
    write_lines(corpus_file, [record(spans=[{"start": 0, "end": 1, "type": "Color"}])])
    assert JsonLines(path=corpus_file).load().taxonomy == ("Color", "Object")


MALFORMED = {
    "truncated JSON": ('{"id": "a/1", "image":', r"not JSON: it ends too early .character 22.; repair it"),
    "no object": ("[1, 2]", "is a list, not an object"),
    "nested too deeply": ("[" * 100_000, "nested too deeply"),
    "an endless number": ("9" * 5000, "not usable JSON: Exceeds the limit"),
    "a span outside its text": ({"spans": [{"start": 20, "end": 99}]}, "99 is beyond the text's 26 characters"),
    "start after end": ({"spans": [{"start": 9, "end": 3}]}, "start: 9 is after end 3"),
    "overlapping sentences": ({"sentences": [{"start": 0, "end": 12}, {"start": 5, "end": 20}]}, "must not overlap"),
    "an unknown label": ({"sentences": [{"start": 0, "end": 12, "label": "wrong"}]}, "'wrong' is not possible"),
    "an unknown key": ({"caption": "A man."}, "caption: unknown key"),
    "a repeated id": ({}, "'a/1' is that of .*:1 already; make ids unique"),
}


@pytest.mark.parametrize(("bad", "problem"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_record_is_an_error_with_file_line_value_and_remedy(corpus_file, record, bad, problem):
    line = bad if isinstance(bad, str) else json.dumps(record(**bad))
    corpus_file.write_text(json.dumps(record()) + "\n" + line + "\n")
    with pytest.raises(DataError, match=rf"captions\.jsonl:2: .*{problem}.*data\.on_error=skip"):
        JsonLines(path=corpus_file).load()


@pytest.mark.parametrize("bad", [bad for bad, _ in MALFORMED.values()], ids=MALFORMED)
def test_a_malformed_record_is_skipped_and_counted_where_asked(corpus_file, record, bad):
    line = bad if isinstance(bad, str) else json.dumps(record(**bad))
    corpus_file.write_text(json.dumps(record()) + "\n" + line + "\n")
    corpus = JsonLines(path=corpus_file, on_error="skip").load()
    assert len(corpus.captions) == 1
    ((reason, count),) = corpus.skipped.items()
    assert count == 1
    assert "captions.jsonl:2" in corpus.notes["problems"][reason][0]


def test_a_label_of_a_whole_caption_is_told_where_labels_belong(corpus_file, write_lines, record):
    write_lines(corpus_file, [record(label="incorrect")])
    with pytest.raises(
        DataError, match=r"label: unknown key; .*\(a sentence has label: put it into the objects of `sent"
    ):
        JsonLines(path=corpus_file).load()


def test_one_error_names_all_problems_of_records_and_images(corpus_file, write_lines, record):
    wrong = record()["sentences"][0] | {"label": "Incorrect"}
    bad = [record(id="a/2", sentences=[wrong]), record(id="a/3", note="x"), record(id="a/4", image="2.png")]
    write_lines(corpus_file, [record(), *bad, record(id="a/5", image="3.png"), record()])
    with pytest.raises(DataError) as error:
        JsonLines(path=corpus_file).load()
    lines = str(error.value).splitlines()
    expected = (
        "5 problems",
        ":2: sentences[0].label",
        ":3: note: unknown key",
        ":6: id: 'a/1'",
        "2.png: does",
        "3.png",
    )
    assert [text in line for text, line in zip(expected, lines, strict=False)] == [True] * 6
    assert len(lines) == 6 + 3  # a remedy for records, for ids and for images


def test_one_error_says_once_what_is_wrong_with_many_records_and_reads_no_more_than_20(
    corpus_file, write_lines, record
):
    write_lines(corpus_file, [record(text="") for _ in range(50)])
    with pytest.raises(DataError) as error:
        JsonLines(path=corpus_file).load()
    summary, problem, _ = str(error.value).splitlines()
    assert summary.startswith("the first 20 problems of the captions")
    assert problem == f"{corpus_file}:1: text: '' is empty; give some text (and 19 more like it)"


def test_bytes_that_are_not_utf_8_are_named(corpus_file):
    corpus_file.write_bytes(corpus_file.read_bytes() + b'{"id": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"captions\.jsonl:3: byte 0xe9 at position 11 is not UTF-8; save it as UTF-8"):
        JsonLines(path=corpus_file).load()


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_an_error(corpus_file, content):
    corpus_file.write_bytes(content)
    with pytest.raises(DataError, match=r"captions\.jsonl: the file is empty"):
        JsonLines(path=corpus_file).load()


def test_a_corpus_of_which_nothing_is_left_says_why(corpus_file):
    corpus_file.write_text("nonsense\n" * 3 + "[]\n")
    with pytest.raises(DataError) as error:
        JsonLines(path=corpus_file, on_error="skip").load()
    summary, first, second = str(error.value).splitlines()
    assert "no caption can be used (left out: malformed records 4)" in summary
    assert first == f"{corpus_file}:1: not JSON: Expecting value (character 0); repair it (and 2 more like it)"
    assert second.startswith(f"{corpus_file}:4: line: [] is a list, not an object")


def test_a_missing_image_is_an_error_that_names_it_and_the_share(corpus_file, write_lines, record):
    write_lines(corpus_file, [record(), record(id="a/2", image="2.png")])
    with pytest.raises(DataError, match=r"1 of 2 images can be used .50\.0%.*2\.png: does not exist"):
        JsonLines(path=corpus_file).load()


def test_captions_without_an_image_are_skipped_and_counted_where_asked(corpus_file, write_lines, record, tmp_path):
    (tmp_path / "empty.png").touch()
    images = {"a/1": "1.png", "a/2": "2.png", "a/3": "2.png", "a/4": "empty.png"}
    write_lines(corpus_file, [record(id=id_, image=image) for id_, image in images.items()])
    corpus = JsonLines(path=corpus_file, missing_image="skip", min_images=0.3).load()
    assert [caption.id for caption in corpus.captions] == ["a/1"]
    assert corpus.skipped == {"captions without their image": 2, "captions of unreadable images": 1}


def test_too_few_images_are_refused_even_where_they_may_be_missing(corpus_file, write_lines, record):
    write_lines(corpus_file, [record(), record(id="a/2", image="2.png")])
    with pytest.raises(DataError, match=r"1 of 2 images .* fewer than data\.min_images=0\.9"):
        JsonLines(path=corpus_file, missing_image="skip").load()


def test_a_path_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"'.*nowhere' does not exist; give a corpus's file or its folder"):
        JsonLines(path=tmp_path / "nowhere").load()


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
@pytest.mark.parametrize("name", ["pipe.jsonl", "."])
def test_a_pipe_as_a_corpus_is_an_error_and_never_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match=r"is not a file|it is a named pipe, not a file"):
        JsonLines(path=tmp_path / name).load()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_path_that_no_file_can_have_does_not_exist(corpus_file, name):
    with pytest.raises(DataError, match="does not exist"):
        JsonLines(path=corpus_file.parent / name).load()
    with pytest.raises(DataError, match="is not a folder"):
        JsonLines(path=corpus_file, images=corpus_file.parent / name).load()


def test_an_image_name_that_no_file_can_have_is_a_missing_image(corpus_file, write_lines, record):
    write_lines(corpus_file, [record(), record(id="a/2", image="x" * 300), record(id="a/3", image="a\0b")])
    corpus = JsonLines(path=corpus_file, missing_image="skip", min_images=0).load()
    assert corpus.skipped == {"captions without their image": 2}


@pytest.mark.parametrize("image", ["../secret.png", "{}/secret.png", "link.png", "folder/secret.png", "a\0b"])
def test_an_image_path_that_leads_out_is_refused_where_asked(tmp_path, paint, write_lines, record, image):
    paint(tmp_path / "secret.png")
    paint(tmp_path / "corpus/1.png")
    (tmp_path / "corpus/link.png").symlink_to("../secret.png")
    (tmp_path / "corpus/folder").symlink_to("..")
    records = [record(), record(id="a/2", image=image.format(tmp_path))]
    file = write_lines(tmp_path / "corpus/captions.jsonl", records)
    with pytest.raises(DataError, match=r"'a/2': image: '.*' leads out of .*corpus, and data\.images_inside=true"):
        JsonLines(path=file, images_inside=True).load()
    corpus = JsonLines(path=file, images_inside=True, on_error="skip").load()
    assert corpus.skipped == {"captions with an image outside the images' folder": 1}
    assert len(JsonLines(path=file, missing_image="skip", min_images=0).load().captions) == (1 if "\0" in image else 2)


def test_image_paths_that_come_back_in_stay(tmp_path, paint, write_lines, record):
    path = paint(tmp_path / "corpus/deep/1.png")
    (tmp_path / "corpus/link.png").symlink_to("deep/1.png")
    (tmp_path / "loop").symlink_to("corpus")
    images = ["deep/1.png", "deep/../deep/1.png", "../loop/deep/1.png", str(path), "link.png"]
    records = [record(id=str(number), image=image) for number, image in enumerate(images)]
    file = write_lines(tmp_path / "corpus/captions.jsonl", records)
    assert len(JsonLines(path=file, images_inside=True).load().captions) == 5
    assert len(JsonLines(path=file, images_inside=True, images=tmp_path / "loop").load().captions) == 5


EXTRA = {"note": "x", "sentances": []}


def test_extra_keys_are_malformed_and_the_message_says_what_was_meant(corpus_file, write_lines, record):
    write_lines(corpus_file, [record(**EXTRA), record(id="a/2", sentances=[])])
    with pytest.raises(
        DataError, match=r":1: note: unknown key; the keys.*data\.extra_keys=ignore or --extra-keys ignore leaves"
    ):
        JsonLines(path=corpus_file).load()
    write_lines(corpus_file, [record(sentances=[])])
    with pytest.raises(DataError, match=r"sentances: unknown key; did you mean sentences\? the keys"):
        JsonLines(path=corpus_file).load()


def test_extra_keys_are_left_out_and_counted_where_asked(corpus_file, write_lines, record, caplog):
    first = record(**EXTRA)
    first["spans"][0]["by"] = "me"
    first["sentences"][1]["votes"] = {"correct": 1, "incorrect": 2, "annotators": 3}
    write_lines(corpus_file, [first, record(id="a/2", note="y")])
    corpus = JsonLines(path=corpus_file, extra_keys="ignore").load()
    assert corpus.captions[1] == Caption.from_record(record(id="a/2"))
    assert corpus.captions[0].sentences[1].votes.incorrect == 2
    listing = {"note": 2, "sentances": 1, "sentences.votes.annotators": 1, "spans.by": 1}
    assert corpus.notes["keys_left_out"] == listing
    assert "keys that captions do not have, left out: note (2), sentances (1)" in caplog.text


def test_each_caption_knows_its_line(corpus_file):
    corpus_file.write_text("\n" + corpus_file.read_text())
    assert JsonLines(path=corpus_file).load().lines == {"a/1": 2, "b/1": 3}


def test_a_folder_without_a_corpus_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        DataError, match=r"holds no corpus .\*\.jsonl or \*\.jsonl\.gz., only notes\.txt; give the file"
    ):
        JsonLines(path=tmp_path).load()


def test_a_folder_with_two_corpora_asks_for_one_of_them(corpus_file):
    (corpus_file.parent / "more.jsonl").touch()
    with pytest.raises(DataError, match=r"holds several corpora .captions\.jsonl, more\.jsonl.; give one"):
        JsonLines(path=corpus_file.parent).load()


def test_an_image_folder_that_does_not_exist_is_an_error(corpus_file, tmp_path):
    with pytest.raises(DataError, match=r"data\.images: '.*nowhere' is not a folder"):
        JsonLines(path=corpus_file, images=tmp_path / "nowhere").load()


def test_what_is_written_is_read_back_equal(corpus_file, tmp_path):
    corpus = JsonLines(path=corpus_file).load()
    write_jsonl(tmp_path / "new" / "copy.jsonl", (c.to_record() for c in corpus.relocated(tmp_path / "new").captions))
    copy = JsonLines(path=tmp_path / "new").load()
    assert [caption.image for caption in copy.captions] == ["../1.png"] * 2
    assert copy.relocated(tmp_path).captions == corpus.captions


def test_absolute_image_paths_resolve_from_anywhere(corpus_file, tmp_path):
    corpus = JsonLines(path=corpus_file).load().relocated(None)
    assert corpus.captions[0].image == str((tmp_path / "1.png").resolve())
    assert corpus.image_path(corpus.captions[0]).is_file()


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    def records():
        yield {"id": 1}
        raise RuntimeError("the power went")

    path = tmp_path / "a.jsonl"
    path.write_text("old\n")
    with pytest.raises(RuntimeError):
        write_jsonl(path, records())
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be written .* choose another place"):
        write_jsonl(tmp_path / "file" / "a.jsonl", [])


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read .Is a directory.; check the file"):
        list(read_objects(tmp_path, Skips("raise")))
