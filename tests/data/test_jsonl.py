"""Tests of the canonical JSON Lines reader and writer."""

import json

import pytest

from halspan.core.captions import Caption, Prediction
from halspan.core.errors import DataError
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.corpus import Skips
from halspan.data.jsonl import JsonLines, read_objects, write_jsonl


@pytest.fixture
def corpus_file(tmp_path, paint, write_lines, record):
    """Captions with ids a/1 and b/1 of one image."""
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
    write_lines(corpus_file, [record(spans=[{"start": 0, "end": 1, "type": "Colour"}])])
    assert JsonLines(path=corpus_file).load().taxonomy == ("Colour", "Object")


MALFORMED = {
    "truncated JSON": ('{"id": "a/1", "image":', r"not JSON: it ends too early .character 22.; repair it"),
    "no object": ("[1, 2]", "is a list, not an object"),
    "nested too deeply": ("[" * 100_000, "nested too deeply"),
    "an endless number": ("9" * 5000, "not usable JSON: Exceeds the limit"),
    "a span outside its text": ({"spans": [{"start": 20, "end": 99}]}, "99 lies beyond the text's 26 characters"),
    "start after end": ({"spans": [{"start": 9, "end": 3}]}, "start: 9 lies after end 3"),
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
    assert "captions.jsonl:2" in corpus.notes["examples"][reason][0]


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
    corpus_file.write_text("nonsense\n")
    with pytest.raises(
        DataError, match=r"no caption can be used .left out: malformed records 1; first: .*:1: not JSON"
    ):
        JsonLines(path=corpus_file, on_error="skip").load()


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


def test_a_folder_without_a_corpus_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds no corpus .\*\.jsonl., only notes\.txt; give the file"):
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
