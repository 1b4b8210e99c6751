"""Foreign corpora: each a class of attack; `experiments/review/hostile.md` lists what happened."""

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from halspan.cli import main as halspan
from halspan.core.errors import DataError
from halspan.data.readers.chocolate import Chocolate
from halspan.data.readers.jsonl import JsonLines
from halspan.data.streams.parquet import ParquetFile
from halspan.data.streams.records import Position, Shard
from halspan.testing.small_corpora import write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), n_images=12)


def captions(corpus, folder, change=lambda record: None):
    """Copy a corpus with something done to its first record."""
    file = Path(shutil.copytree(corpus.parent, folder)) / corpus.name
    first, *others = file.read_text().splitlines()
    record = json.loads(first)
    change(record)
    file.write_text("\n".join([json.dumps(record), *others]) + "\n")
    return file


def many_marks(record):
    record["text"] += " a" + "\u0301" * 200_000 + "\u0316" * 200_000


def many_sentences(record):
    n = 20_000
    record["text"] = "a. " * n
    record["sentences"] = [{"start": 3 * place, "end": 3 * place + 2, "label": "incorrect"} for place in range(n)]
    record["spans"] = [{"start": 3 * place, "end": 3 * place + 1} for place in range(n)]


def many_types(record):
    record["spans"] = [{"start": 0, "end": 4, "type": f"type{number}"} for number in range(20_000)]


@pytest.mark.parametrize("change", [many_marks, many_sentences, many_types])
@pytest.mark.timeout(20)  # each took minutes, or hours
def test_a_corpus_that_costs_quadratic_time_is_read(corpus, tmp_path, change):
    from halspan.core.text.known_texts import KnownTexts
    from halspan.data.inspection.problems import find_problems

    read = JsonLines(path=captions(corpus, tmp_path / "corpus", change)).load()
    find_problems(read)
    assert KnownTexts.of(read.captions).captions


@pytest.mark.timeout(20)  # it took minutes
def test_an_id_that_is_always_repeated_costs_no_more(tmp_path):
    record = {"_id": "a", "labels": [[]], "model": "m", "image_path": "0.png"}
    file = tmp_path / "chocolate.json"
    file.write_text(json.dumps([record | {"sentences": [f"It is {number}."]} for number in range(10_000)]))
    read = Chocolate(path=file).load(check_images=False)
    assert [caption.id for caption in read.captions[-2:]] == ["a#9999", "a#10000"]


def many_digits(folder):
    row = {"model": "m", "image_name": "0.png", "caption": "A cat.", "annotation": "correct"}
    (folder / "captions.jsonl").write_text(json.dumps(row | {"sentence_index": 10**400}) + "\n")


def endless_list(folder):
    (folder / "captions.jsonl").unlink()
    (folder / "chocolate.json").write_text('[{"image_path": "", "labels": []}]')
    os.truncate(folder / "chocolate.json", 2**40)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def comment_bomb(folder):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    comment = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2 * 10**8)))
    picture = chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")
    (folder / "images/0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + comment + picture)


def endless_line(folder):
    with (folder / "captions.jsonl").open("wb") as file:
        file.write(b'{"id": "')
        file.truncate(2**40)


def endless_pages(folder):
    """Write a TIFF whose directories lead to each other in a circle."""
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 0), (279, 4, 1, 1)]
    page = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    ends = (8 + len(page) + 4, 8)
    (folder / "images/0.png").write_bytes(
        b"II*\0" + struct.pack("<I", 8) + b"".join(page + struct.pack("<I", end) for end in ends)
    )


CORPORA = {
    "a line without end": (endless_line, "the line has more than 67,108,864 bytes"),
    "a comment that fills the memory": (comment_bomb, "Decompressed data too large"),
    "a number of 400 digits": (many_digits, "is an integer, not a count"),
    "a list without end": (endless_list, "has 1,099,511,627,776 bytes, more than the 1,073,741,824 that are read"),
    "pages in a circle": (endless_pages, "has several frames"),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_hostile_corpus_is_refused(corpus, tmp_path, capsys, name):
    spoil, message = CORPORA[name]
    file = captions(corpus, tmp_path / "corpus")
    spoil(file.parent)
    with pytest.raises(SystemExit) as exit_:
        halspan(["data", "check", str(file if file.exists() else file.with_name("chocolate.json"))])
    assert exit_.value.code == 1
    assert message in " ".join("".join(capsys.readouterr()).split())


def test_a_row_that_fills_the_memory_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    spans = pyarrow.nulls(10**7, pyarrow.struct([("start", pyarrow.int64())]))
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, len(spans)], pyarrow.int32()), spans)
    file = tmp_path / "captions.parquet"
    parquet.write_table(pyarrow.table({"text": ["A cat."], "image": ["0.png"], "spans": lists}), file)
    assert file.stat().st_size < 10_000
    (record,) = ParquetFile(file).read(Position(), Shard())
    assert record.content is None
    assert "bytes, more than 67,108,864" in record.problem


def test_an_address_that_cannot_be_read_is_a_bad_record(tmp_path):
    record = {"_id": "a", "labels": [[]], "model": "m", "image_path": "http://[", "sentences": ["It is."]}
    (tmp_path / "chocolate.json").write_text(json.dumps([record]))
    with pytest.raises(DataError, match=r"image_path: 'http://\[' is not an address"):
        Chocolate(path=tmp_path / "chocolate.json").load(check_images=False)
