import base64
import json

import pytest
from PIL import Image
from tiny_llama4 import tiny_detector

from halspan.core.captions import Prediction, SentenceScore
from halspan.core.errors import ModelError
from halspan.data.streams import records as stream
from halspan.data.streams.records import ItemReader, JsonLinesFile, Position, Shard
from halspan.inference import bulk
from halspan.inference.blocks import Answered
from halspan.inference.bulk import score_blocks

COLORS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


@pytest.fixture
def score(detector, monkeypatch):
    """Score with a real detector; remembers how many captions there were in each row."""
    encoder = detector._scorer.encoder
    encode_whole = encoder.encode_whole

    def encode(image, captions):
        score.rows.append(len(captions))
        return encode_whole(image, captions)

    def score(source, read):
        return detector.score_blocks(source, read, batch_tokens=4096)

    score.rows = []
    monkeypatch.setattr(encoder, "encode_whole", encode)
    return score


@pytest.fixture
def write(tmp_path):
    for color in COLORS:
        Image.new("RGB", (32, 32), color).save(tmp_path / f"{color}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "red.png").read_bytes()[:40])

    def write(records):
        file = tmp_path / "captions.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        return file

    return write


def run(file, score, **options):
    records = JsonLinesFile(file).read(Position(), Shard())
    return list(score_blocks(records, score, ItemReader(file.parent, file.parent), **options))


def record(image, text="It is red. It is."):
    return {"image": f"{image}.png", "text": text}


def fixed(*scores):
    """Stand for a detector that is sure of what it says."""

    def predict(caption):
        given = scores[int(caption.id) - 1]
        return Prediction(caption, tuple(SentenceScore(p, "does not fit" if p is None else None) for p in given))

    def score(source, read):
        for item in source:
            block, asked = read(item)
            yield Answered(block, {place: predict(one.caption) for place, one in enumerate(asked)}, is_last=True)

    return score


def test_records_come_in_their_order_with_a_score_for_each_sentence(write, score):
    images = [COLORS[number % 3] for number in range(7)]
    (block,) = run(write(record(image) for image in images), score)
    assert [item["image"] for item in block.records] == [f"{image}.png" for image in images]
    for item in block.records:
        assert [0 < sentence["p_incorrect"] < 1 for sentence in item["sentences"]] == [True, True]
    assert block.counts == {bulk.SCORED: 7, bulk.KEPT: 7, bulk.SENTENCES: 14, bulk.UNSCORED: 0}


def test_captions_of_one_image_share_a_row_wherever_they_stand(write, score):
    file = write(
        record(image, f"It is {number}.") for number, image in enumerate(("red", "blue", "red", "green", "blue"))
    )
    (block,) = run(file, score)
    assert score.rows == [2, 2, 1]
    assert [item["id"] for item in block.records] == ["1", "2", "3", "4", "5"]
    assert [item["text"] for item in block.records] == [f"It is {number}." for number in range(5)]


def test_images_inside_records_share_a_row_where_they_are_the_same(write, score, tmp_path):
    inside = [base64.b64encode((tmp_path / f"{name}.png").read_bytes()).decode() for name in ("red", "blue", "red")]
    file = write({"image_base64": data, "text": "It is."} for data in inside)
    (block,) = run(file, score)
    assert score.rows == [2, 1]
    beside = run(write(record(image, "It is.") for image in ("red", "blue", "red")), score)[0]
    assert [item["sentences"] for item in block.records] == [item["sentences"] for item in beside.records]


def test_what_cannot_be_used_is_rejected_with_its_line_and_reason_and_is_in_no_output(write, score):
    records = [record("red"), record("broken"), {"text": "no image"}, record("gone"), record("blue"), record("broken")]
    (block,) = run(write(records), score)
    assert [item["id"] for item in block.records] == ["1", "5"]
    reasons = {item["line"]: item["reason"] for item in block.rejected}
    assert list(reasons) == [2, 3, 4, 6]
    assert "broken.png: is not an image" in reasons[2]
    assert "image: missing" in reasons[3]
    assert "gone.png: does not exist" in reasons[4]
    assert block.counts[bulk.REJECTED] == 4
    assert block.counts[bulk.SCORED] == 2


def test_a_block_is_the_same_wherever_the_reading_began(write, score, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 8)
    file = write(record(COLORS[number % 3], f"It is {number}.") for number in range(13))
    whole = run(file, score)
    assert [len(block.records) for block in whole] == [8, 5]
    rest = JsonLinesFile(file).read(whole[0].position, Shard())
    (again,) = score_blocks(rest, score, ItemReader(file.parent, file.parent))
    assert again == whole[1]


def test_images_inside_records_are_held_up_to_a_bound_and_a_block_stays_one(write, score, tmp_path, monkeypatch):
    inside = [base64.b64encode((tmp_path / f"{name}.png").read_bytes()).decode() for name in COLORS]
    records = [{"image_base64": inside[number % 3], "text": f"It is {number}."} for number in range(6)]
    file = write([*records[:3], {"text": "no image"}, *records[3:]])
    (whole,) = run(file, score)
    monkeypatch.setattr(bulk, "MOST_BYTES", 3 * len(file.read_text().splitlines()[0]))
    score.rows.clear()
    (cut,) = run(file, score)
    assert score.rows == [1] * 6  # images of other portions are not there any more
    assert [item["id"] for item in cut.records] == [item["id"] for item in whole.records]
    assert (cut.counts, cut.rejected, cut.position) == (whole.counts, whole.rejected, whole.position)
    for one, other in zip(cut.records, whole.records, strict=True):
        for left, right in zip(one["sentences"], other["sentences"], strict=True):
            assert left["p_incorrect"] == pytest.approx(right["p_incorrect"], abs=1e-6)


def test_captions_are_counted_as_they_are_scored(write, score):
    counted = []
    run(write(map(record, ("red", "broken", "blue"))), score, on_scored=counted.append)
    assert counted == [3]


def test_only_captions_whose_sentences_are_all_scored_and_low_enough_pass(write):
    scores = [(0.2, 0.1), (0.2000001, 0.0), (None, 0.1), (None, 0.9), (0.0, 0.0)]
    file = write(record("red") for _ in scores)
    (block,) = run(file, fixed(*scores), max_p_incorrect=0.2)
    assert [item["id"] for item in block.records] == ["1", "5"]
    assert block.counts[bulk.TOO_LIKELY] == 2
    assert block.counts[bulk.NOT_JUDGED] == 1
    assert block.counts[bulk.KEPT] == 2
    assert block.counts[bulk.UNSCORED] == 2


def test_without_a_limit_the_unscored_are_kept_as_unscored(write):
    (block,) = run(write([record("red")]), fixed((None, 0.9)))
    assert block.records[0]["sentences"][0] == {"start": 0, "end": 10, "p_incorrect": None, "unscored": "does not fit"}


def test_a_row_of_one_image_is_cut_at_the_end_of_its_block(write, score, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 8)
    run(write(record("red", "It is.") for _ in range(9)), score)
    assert score.rows == [8, 1]


def failing(*colors):
    """Stand for a detector that cannot take some pictures."""

    def score(source, read):
        for part in fixed(*[(0.5, 0.5)] * 9)(source, read):
            for place, item in enumerate(part.block.items):
                if item.key.stem in colors:
                    part.results[place] = ModelError(f"{item.key.stem} leaves no room in the window")
            yield part

    return score


def test_a_picture_that_the_detector_cannot_take_is_rejected_alone(write):
    (block,) = run(write(map(record, ("red", "blue", "blue", "red"))), failing("blue"))
    assert [item["id"] for item in block.records] == ["1", "4"]
    assert [item["line"] for item in block.rejected] == [2, 3]
    assert block.rejected[0]["reason"] == "blue leaves no room in the window"
    assert block.counts[bulk.SCORED] == 2


def test_a_detector_that_can_take_no_picture_is_an_error(write):
    with pytest.raises(ModelError, match="leaves no room"):
        run(write([record("blue"), record("red")]), failing("blue", "red"))


def test_a_last_block_of_such_pictures_is_no_error_where_others_were_scored(write, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 2)
    file = write(map(record, ("red", "red", "blue")))
    assert [len(block.rejected) for block in run(file, failing("blue"))] == [0, 1]
    rest = JsonLinesFile(file).read(run(file, failing("blue"))[0].position, Shard())
    (block,) = score_blocks(rest, failing("blue"), ItemReader(file.parent, file.parent), has_scored=True)
    assert len(block.rejected) == 1


def test_an_image_inside_a_record_is_held_once(write, tmp_path):
    data = base64.b64encode((tmp_path / "red.png").read_bytes()).decode()
    portions = []

    def score(source, read):
        for part in fixed((0.5,))(source, read):
            portions.append(part.block)
            yield part

    run(write([{"image_base64": data, "text": "It is."}]), score)
    (item,) = portions[0].items
    assert item.embedded == (tmp_path / "red.png").read_bytes()
    assert item.source.content is None
