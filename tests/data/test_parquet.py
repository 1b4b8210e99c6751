import json

import pytest

from halspan.core.captions import Caption, PredictedSpan, Prediction, SentenceScore
from halspan.core.errors import DataError
from halspan.data.readers.jsonl import write_jsonl
from halspan.data.streams import parquet as module
from halspan.data.streams.parquet import ParquetFile, write_parquet
from halspan.data.streams.records import BLOCK, ItemReader, Position, Shard

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (halspan[parquet])")
pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow (halspan[parquet])")


@pytest.fixture
def write(tmp_path):
    def write(records, schema=None, **options):
        path = tmp_path / "captions.parquet"
        pq.write_table(pyarrow.Table.from_pylist(records, schema=schema), path, **options)
        return path

    return write


def items(path, shard=Shard(), start=Position()):  # noqa: B008 (frozen)
    reader = ItemReader(path.parent, path.parent)
    return [reader.read(raw) for raw in ParquetFile(path).read(start, shard)]


def predictions(record):
    captions = [
        Caption.from_record(record(id="1")),
        Caption.from_record(record(id="2", sentences=None, spans=[], text="Ünï 马. Two.")),
    ]
    scores = (SentenceScore(0.1 + 0.2), SentenceScore(None, "does not fit"))
    return [
        Prediction(captions[0], scores, (PredictedSpan(0, 5, "Object", 1 / 3), PredictedSpan(2, 3, None, 0.5))),
        Prediction(captions[1], scores),
    ]


def test_predictions_come_back_equal_from_the_columns(tmp_path, record):
    expected = predictions(record)
    write_jsonl(tmp_path / "lines", (prediction.to_record() for prediction in expected))
    write_parquet(tmp_path / "lines", tmp_path / "scored.parquet")
    rows = pq.read_table(tmp_path / "scored.parquet").to_pylist()
    assert len(rows) == 2
    for row, prediction in zip(rows, expected, strict=True):
        assert Prediction.from_record(row) == prediction


def test_predictions_are_read_as_the_captions_they_are_about(tmp_path, record):
    expected = predictions(record)
    write_jsonl(tmp_path / "lines", (prediction.to_record() for prediction in expected))
    write_parquet(tmp_path / "lines", tmp_path / "scored.parquet")
    assert [item.caption for item in items(tmp_path / "scored.parquet")] == [p.caption for p in expected]


def test_the_same_lines_give_the_same_bytes(tmp_path, record):
    write_jsonl(tmp_path / "lines", (prediction.to_record() for prediction in predictions(record)))
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for file in files:
        write_parquet(tmp_path / "lines", file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_images_may_lie_in_the_rows_in_either_form(write, paint, tmp_path):
    data = paint(tmp_path / "1.png").read_bytes()
    struct = [{"text": "It is.", "image": {"bytes": data, "path": None}}]
    struct += [{"text": "It is.", "image": {"bytes": None, "path": "1.png"}}]
    inside, beside = items(write(struct))
    assert inside.caption.image.startswith("sha256:")
    assert beside.caption.image == "1.png"
    assert inside.load_image().tobytes() == beside.load_image().tobytes()
    (plain,) = items(write([{"text": "It is.", "image_bytes": data}]))
    assert plain.key == inside.key


def test_columns_that_no_caption_has_are_not_read_and_named(write, caplog):
    (item,) = items(write([{"text": "It is.", "image": "1.png", "url": "http://x", "width": 3}]))
    assert item.caption.id == "1"
    assert "columns that are not read: url, width" in caplog.text


def test_a_file_without_texts_or_images_is_an_error_that_names_its_columns(write):
    with pytest.raises(DataError, match=r"has the columns TEXT, URL; it needs `text`, and `image`"):
        ParquetFile(write([{"TEXT": "It is.", "URL": "http://x"}]))


def test_what_is_no_parquet_is_an_error(tmp_path):
    path = tmp_path / "captions.parquet"
    path.write_text("nonsense")
    with pytest.raises(DataError, match="is not Parquet"):
        ParquetFile(path)


def test_a_row_that_is_no_caption_is_its_own_problem(write):
    records = [{"text": text, "image": "1.png"} for text in ("Good.", None, "Good.", "  ")]
    path = write(records)
    raws = list(ParquetFile(path).read(Position(), Shard()))
    reader = ItemReader(path.parent, path.parent)
    reasons = {}
    for raw in raws:
        try:
            reader.read(raw)
        except DataError as error:
            reasons[raw.position.number] = str(error)
    assert list(reasons) == [2, 4]
    assert "text: missing" in reasons[2]
    assert json.loads(raws[3].raw) == {"text": "  ", "image": "1.png"}


def test_text_that_is_not_utf_8_is_the_row_s_own_problem(write):
    data = pyarrow.array([b"Good.", b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"text": data, "image": ["1.png", "1.png"]})
    path = write([])
    pq.write_table(table, path)
    good, bad = ParquetFile(path).read(Position(), Shard())
    assert good.problem is None
    assert "the row cannot be read: 'utf-8' codec" in bad.problem


def test_rows_come_from_any_position_and_shard_whatever_the_groups(write):
    n = 2 * BLOCK + 9
    path = write([{"text": f"It is {number}.", "image": "1.png"} for number in range(n)], row_group_size=100)
    numbers = [item.source.position.number for item in items(path, start=Position(150))]
    assert numbers == list(range(151, n + 1))
    parts = [[item.source.position.number for item in items(path, Shard(index, 2))] for index in (1, 2)]
    assert sorted(parts[0] + parts[1]) == list(range(1, n + 1))
    assert ParquetFile(path).total == n


def test_images_are_not_written_into_what_is_kept_of_a_rejected_row(write):
    (raw,) = ParquetFile(write([{"text": " ", "image_bytes": b"\0" * 1000}])).read(Position(), Shard())
    assert json.loads(raw.raw)["image_bytes"] == "<1000 bytes>"
    assert module.shorten(raw.raw) == raw.raw
