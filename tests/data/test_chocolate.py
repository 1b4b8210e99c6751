"""Tests of the CHOCOLATE reader."""

import json
from collections import Counter

import pytest

from halspan.core.captions import Sentence
from halspan.core.errors import DataError
from halspan.data.readers.chocolate import TYPES, Chocolate


@pytest.fixture
def chart():
    """Make a record with one sentence; keys given replace its own."""

    def chart(**changes):
        return {
            "sentences": ["Sales grew."],
            "labels": [[]],
            "model": "bard",
            "dataset": "pew",
            "image_path": "https://example.org/images/chart-1.txt.png",
            "_id": "bard-1",
        } | changes

    return chart


@pytest.fixture
def load(tmp_path, paint):
    """Write records to a folder with images/chart-1.txt.png, and load it."""

    def load(*records, **options):
        paint(tmp_path / "images" / "chart-1.txt.png")
        (tmp_path / "chocolate.json").write_text(json.dumps(records))
        return Chocolate(path=tmp_path, **options).load()

    return load


def test_a_record_is_a_caption_with_its_error_types_by_sentence(load, chart, tmp_path):
    corpus = load(
        chart(sentences=["Sales grew.", " Then:\n\n they fell. "], labels=[[], ["value_error", "trend_error"]])
    )
    (caption,) = corpus.captions
    assert (caption.id, caption.generator, caption.direction) == ("bard-1", "bard", "image_to_text")
    assert caption.text == "Sales grew. Then:\n\n they fell."
    assert caption.sentences == (
        Sentence(0, 11, "correct"),
        Sentence(12, 30, "incorrect", types=("value_error", "trend_error")),
    )
    assert caption.spans == ()
    assert corpus.taxonomy == TYPES
    assert corpus.image_path(caption) == tmp_path / "images" / "chart-1.txt.png"


def test_an_error_of_grammar_alone_leaves_a_sentence_correct(load, chart):
    corpus = load(chart(labels=[["grammatical_error"]]))
    assert corpus.captions[0].sentences == (Sentence(0, 11, "correct"),)
    assert corpus.notes["records"] == {"sentences that count as correct, with grammatical_error only": 1}


def test_an_error_of_grammar_beside_another_one_is_not_a_type(load, chart):
    corpus = load(chart(labels=[["ooc_error", "grammatical_error"]]))
    assert corpus.captions[0].sentences[0].types == ("ooc_error",)


def test_a_record_that_stands_twice_is_read_once_and_counted(load, chart):
    corpus = load(chart(), chart())
    assert len(corpus.captions) == 1
    assert corpus.notes["records"] == {"records that repeat another one, left out": 1}


def test_an_id_that_stands_for_two_captions_is_given_a_number(load, chart):
    corpus = load(chart(), chart(sentences=["Sales fell."]), chart(sentences=["Sales rose."]))
    assert [caption.id for caption in corpus.captions] == ["bard-1", "bard-1#2", "bard-1#3"]
    assert corpus.notes["records"] == {"records with the id of another one, given a new id": 2}


def test_images_may_lie_in_another_folder(load, chart, paint, tmp_path):
    paint(tmp_path / "charts" / "chart-1.txt.png")
    corpus = load(chart(), images=tmp_path / "charts")
    assert corpus.image_root == tmp_path / "charts"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": [[], []]}, "labels: .* do not fit sentences"),
        ({"labels": ["value_error"]}, r"labels\[0\]: 'value_error' is a string, not a list"),
        ({"labels": [["hue"]]}, r"labels\[0\]: 'hue' is not possible; one of value_error"),
        ({"sentences": [""]}, r"sentences\[0\]: '' is empty"),
        ({"sentences": [], "labels": []}, "text: '' is empty"),
        ({"image_path": None}, "image_path: null"),
        ({"model": 3}, "model: 3 is an integer, not text"),
        ({"_id": ""}, "id: '' is empty"),
    ],
)
def test_a_malformed_record_is_an_error_or_a_counted_skip(load, chart, changes, problem):
    with pytest.raises(DataError, match=rf"chocolate\.json: record 1: {problem}"):
        load(chart(), chart(**changes))
    corpus = load(chart(), chart(**changes), on_error="skip")
    assert len(corpus.captions) == 1
    assert corpus.skipped == {"malformed records": 1}


def test_a_missing_key_is_an_error(load, chart):
    bad = chart()
    del bad["labels"]
    with pytest.raises(DataError, match="labels: missing; a record needs sentences, labels"):
        load(bad)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b'[{"model":\n "bard"', r"not JSON: it ends too early .line 2, column 8."),
        (b'["caf\xe9"]', "byte 0xe9 at position 5 is not UTF-8"),
        (b'{"model": "bard"}', "holds an object, not a list of records"),
        (b"[3]", "record 0: record: 3 is an integer, not an object"),
    ],
)
def test_a_file_that_is_no_list_of_records_is_an_error(tmp_path, content, problem):
    path = tmp_path / "chocolate.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"chocolate\.json: {problem}"):
        Chocolate(path=path).load()


def test_a_missing_chart_is_an_error(load, chart):
    with pytest.raises(DataError, match=r"chart-2\.png: does not exist"):
        load(chart(), chart(_id="bard-2", image_path="images/chart-2.png"))


def test_the_release_is_read_whole_but_for_what_it_repeats(shared_data):
    corpus = Chocolate(path=shared_data / "chocolate").load()
    records = json.loads((shared_data / "chocolate" / "chocolate.json").read_text())
    n_repeated = corpus.notes["records"]["records that repeat another one, left out"]
    assert len(corpus.captions) == len(records) - n_repeated
    assert n_repeated == len(records) - len({record["_id"] for record in records})
    assert corpus.skipped == {}
    assert corpus.generators == ("bard", "chartt5", "deplot", "gpt4v", "matcha", "unichart")
    labels = Counter(sentence.label for caption in corpus.captions for sentence in caption.sentences)
    grammar_only = [
        labels
        for record in {record["_id"]: record for record in records}.values()
        for labels in record["labels"]
        if labels in ([], ["grammatical_error"])
    ]
    assert labels["correct"] == len(grammar_only)
