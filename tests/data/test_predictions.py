import json
import re

import pytest

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span
from halspan.core.errors import DataError
from halspan.data.streams.predictions import NO_PREDICTION, find_predictions, match_truth, pair, read_predictions

TEXT = "A red dog. A cat."


RED = Span(2, 5, "Attribute")


def caption(name="a", *, text=TEXT, labels=("incorrect", "correct"), spans=(RED,)):
    sentences = (Sentence(0, 10, labels[0]), Sentence(11, 17, labels[1]))
    return Caption(name, "images/1.png", "g", "image_to_text", text, sentences, spans)


def prediction(name="a", scores=(0.9, 0.1), **changes):
    return Prediction(caption(name, **changes), tuple(map(SentenceScore, scores)), (PredictedSpan(2, 5, None, 0.9),))


def write(folder, *records):
    file = folder / "scored.jsonl"
    file.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
    return file


def record(**changes):
    return prediction().to_record() | changes


def test_predictions_come_back_with_images_that_open_from_anywhere(tmp_path):
    (read,) = read_predictions(write(tmp_path, record()))
    assert read.caption.image == str(tmp_path / "images/1.png")
    assert (read.sentences, read.spans) == (prediction().sentences, prediction().spans)


def spoiled(change):
    changed = record()
    change(changed)
    return changed


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([record(), record()], "scored.jsonl:2: id: 'a' has a prediction at"),
        ([spoiled(lambda r: r["sentences"][0].update(p_incorrect=float("nan")))], "p_incorrect: nan is not a probab"),
        ([spoiled(lambda r: r["sentences"][0].update(p_incorrect=1.5))], "p_incorrect: 1.5 is not a probability"),
        ([spoiled(lambda r: r["sentences"][0].update(p_incorrect=None))], "p_incorrect: null without a reason"),
        ([spoiled(lambda r: r["predicted"][0].update(end=99))], "predicted[0].end: 99 is beyond the text's 17"),
        ([spoiled(lambda r: r["spans"][0].update(end=99))], "spans[0].end: 99 is beyond the text's 17"),
        ([spoiled(lambda r: r["predicted"][0].update(start=5))], "end: 5 equals start"),
        ([caption().to_record()], "predicted: missing; this is a caption without a prediction"),
        (["{"], "scored.jsonl:1: not JSON"),
        ([], "the file is empty"),
    ],
    ids=["twice", "nan", "1.5", "no reason", "span", "true span", "no character", "no prediction", "json", "empty"],
)
def test_a_file_that_is_not_all_predictions_is_refused_with_its_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_predictions(write(tmp_path, *lines))


def test_a_folder_gives_the_part_asked_for_and_says_which_there_are(tmp_path):
    (tmp_path / "predictions").mkdir()
    file = write(tmp_path / "predictions", record())
    assert find_predictions(tmp_path, "scored") == file
    assert find_predictions(file.parent, "scored") == file
    assert find_predictions(file, "whatever") == file
    with pytest.raises(DataError, match="has no part 'val'; one of scored"):
        find_predictions(tmp_path, "val")
    with pytest.raises(DataError, match="does not exist"):
        find_predictions(tmp_path / "nowhere", "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no predictions"):
        find_predictions(tmp_path / "empty", "val")


def test_the_truth_annotates_and_what_only_one_side_has_is_told():
    labeled_otherwise = prediction("a", labels=("correct", "correct"), spans=())
    matched = match_truth([caption("a"), caption("b")], [prediction("c"), labeled_otherwise])
    assert matched.predictions[0].caption == caption("a")
    assert [score.p_incorrect for score in matched.predictions[0].sentences] == [0.9, 0.1]
    assert [score.unscored for score in matched.predictions[1].sentences] == [NO_PREDICTION] * 2
    assert (matched.missing, matched.unknown) == (("b",), ("c",))


@pytest.mark.parametrize("judge", [lambda a, b: match_truth([a.caption], [b]), lambda a, b: pair([a], [b])])
def test_a_prediction_of_another_text_or_of_other_sentences_is_refused(judge):
    with pytest.raises(DataError, match=r"the text 'A red dog\. A cat\.' was predicted as 'A red cat\. A cat\.'"):
        judge(prediction(), prediction(text="A red cat. A cat."))
    whole = Caption("a", "1.png", "g", "image_to_text", TEXT, (Sentence(0, 17),))
    with pytest.raises(DataError, match="1 sentences were predicted, at other places than its 2"):
        judge(prediction(), Prediction(whole, (SentenceScore(0.5),)))


def test_nothing_in_common_is_an_error():
    with pytest.raises(DataError, match="none of the 1 is for one of the 1 captions"):
        match_truth([caption("a")], [prediction("b")])
    with pytest.raises(DataError, match="no caption in common"):
        pair([prediction("a")], [prediction("b")])


def test_two_detectors_are_paired_by_caption_in_the_order_of_the_first():
    pairs = pair(
        [prediction("a"), prediction("b"), prediction("c")], [prediction("c", (0, 1)), prediction("a", (1, 0))]
    )
    assert [(one.caption.id, other.caption.id) for one, other in pairs] == [("a", "a"), ("c", "c")]


def test_two_detectors_judged_by_different_labels_are_not_compared():
    with pytest.raises(DataError, match="caption 'a': labels or annotated spans differ"):
        pair([prediction()], [prediction(labels=("correct", "correct"))])
