import base64
import json

import pytest
import torch
from PIL import Image

from halspan.core.captions import Prediction, SentenceScore
from halspan.core.errors import ModelError
from halspan.data.streams import records as stream
from halspan.data.streams.records import ItemReader, JsonLinesFile, Position, Shard
from halspan.inference import bulk
from halspan.inference.bulk import score_blocks
from halspan.inference.scorer import Scorer
from halspan.inference.tuning import Tuned, predict
from halspan.models.detector import build_detector
from halspan.models.model_spec import LoraSpec, ModelSpec

TAXONOMY = ("Attribute", "Object")
COLORS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    spec = ModelSpec(
        backbone="builtin:llama4-tiny",
        prompt="What is wrong?",
        context="causal",
        max_tokens=512,
        pack_tokens=512,
        dtype="float32",
        attention="eager",
        lora=LoraSpec(r=2, alpha=4, dropout=0.5, targets=["language"]),
    )
    return Scorer(*build_detector(spec, TAXONOMY), spec)


@pytest.fixture
def score_rows(detector):
    """Score with a real detector; remembers the rows."""

    def score_rows(rows, *, read_image):
        score_rows.rows += rows
        scores = detector.score_rows(rows, read_image=read_image, batch_tokens=4096)
        return predict(scores, Tuned(), TAXONOMY)

    score_rows.rows = []
    return score_rows


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


def run(file, score_rows, **options):
    records = JsonLinesFile(file).read(Position(), Shard())
    return list(score_blocks(records, score_rows, ItemReader(file.parent, file.parent), **options))


def record(image, text="It is red. It is."):
    return {"image": f"{image}.png", "text": text}


def fixed(*scores):
    """Stand for a detector that is sure of what it says."""

    def score_rows(rows, *, read_image):
        for row in rows:
            for caption in row.captions:
                given = scores[int(caption.id) - 1]
                yield Prediction(caption, tuple(SentenceScore(p, "does not fit" if p is None else None) for p in given))

    return score_rows


def test_records_come_in_their_order_with_a_score_for_each_sentence(write, score_rows):
    images = [COLORS[number % 3] for number in range(7)]
    (block,) = run(write(record(image) for image in images), score_rows)
    assert [item["image"] for item in block.records] == [f"{image}.png" for image in images]
    for item in block.records:
        assert [0 < sentence["p_incorrect"] < 1 for sentence in item["sentences"]] == [True, True]
    assert block.counts == {bulk.SCORED: 7, bulk.KEPT: 7, bulk.SENTENCES: 14, bulk.UNSCORED: 0}


def test_neighbors_of_one_image_share_a_row_and_others_do_not(write, score_rows):
    run(write(record(image) for image in ("red", "red", "blue", "red", "red")), score_rows)
    assert [(row.image.stem, len(row.captions)) for row in score_rows.rows] == [("red", 2), ("blue", 1), ("red", 2)]


def test_images_inside_records_share_a_row_where_they_are_the_same(write, score_rows, tmp_path):
    inside = [base64.b64encode((tmp_path / f"{name}.png").read_bytes()).decode() for name in ("red", "red", "blue")]
    file = write({"image_base64": data, "text": "It is."} for data in inside)
    (block,) = run(file, score_rows)
    assert [len(row.captions) for row in score_rows.rows] == [2, 1]
    beside = run(write(record(image, "It is.") for image in ("red", "red", "blue")), score_rows)[0]
    assert [item["sentences"] for item in block.records] == [item["sentences"] for item in beside.records]


def test_what_cannot_be_used_is_rejected_with_its_line_and_reason_and_is_in_no_output(write, score_rows):
    records = [record("red"), record("broken"), {"text": "no image"}, record("gone"), record("blue"), record("broken")]
    (block,) = run(write(records), score_rows)
    assert [item["id"] for item in block.records] == ["1", "5"]
    reasons = {item["line"]: item["reason"] for item in block.rejected}
    assert list(reasons) == [2, 3, 4, 6]
    assert "broken.png: is not an image" in reasons[2]
    assert "image: missing" in reasons[3]
    assert "gone.png: does not exist" in reasons[4]
    assert block.counts[bulk.REJECTED] == 4
    assert block.counts[bulk.SCORED] == 2


def test_a_block_is_the_same_wherever_the_reading_began(write, score_rows, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 8)
    file = write(record(COLORS[number % 3], f"It is {number}.") for number in range(13))
    whole = run(file, score_rows)
    assert [len(block.records) for block in whole] == [8, 5]
    rest = JsonLinesFile(file).read(whole[0].position, Shard())
    (again,) = score_blocks(rest, score_rows, ItemReader(file.parent, file.parent))
    assert again == whole[1]


def test_only_so_many_pictures_are_held_at_a_time(write, monkeypatch):
    held = []

    def score_rows(rows, *, read_image):
        held.append(sum(read_image(image).width * 32 * 3 for image in {row.image for row in rows}))
        return fixed(*[(0.5, 0.5)] * 9)(rows, read_image=read_image)

    monkeypatch.setattr(bulk, "_MOST_DECODED", 2 * 32 * 32 * 3)
    (block,) = run(write(record(COLORS[number % 3]) for number in range(9)), score_rows)
    assert len(block.records) == 9
    assert len(held) > 3
    assert max(held) == 2 * 32 * 32 * 3


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


def test_a_row_of_one_image_is_cut_at_the_end_of_its_block(write, score_rows, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 8)
    run(write(record("red", "It is.") for _ in range(9)), score_rows)
    assert [len(row.captions) for row in score_rows.rows] == [8, 1]


def failing(*colors):
    """Stand for a detector that cannot take some pictures."""
    scores = fixed(*[(0.5, 0.5)] * 9)

    def score_rows(rows, *, read_image):
        for row in rows:
            if row.image.stem in colors:
                raise ModelError(f"{row.image.stem} leaves no room in the window")
            yield from scores([row], read_image=read_image)

    return score_rows


def test_a_picture_that_the_detector_cannot_take_is_rejected_alone(write):
    (block,) = run(write(map(record, ("red", "blue", "blue", "gone", "red"))), failing("blue"))
    assert [item["id"] for item in block.records] == ["1", "5"]
    assert [item["line"] for item in block.rejected] == [2, 3, 4]
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
