"""Names that try to steer a terminal or a spreadsheet, through a run and the commands that show its figures."""

import csv
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from small_runs import run, small_overrides

from halspan.cli import main
from halspan.testing.small_corpora import write_corpus

HELD_OUT = "=gpt\x1b]0;owned\x07[red]\u202e4|<b>"
SHOWN = r"=gpt\x1b]0;owned\x07[red]\u202e4|<b>"
TRAINED = "\x9b2J@ben [bold]"
TYPE = "Obj\x1b[31mect"
ID = "\x1b[2J[red]cleo"
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def make_hostile(line):
    record = json.loads(line)
    record["generator"] = {"cleo": HELD_OUT, "ben": TRAINED}.get(record["generator"], record["generator"])
    record["id"] = record["id"].replace("cleo", ID)
    record["image"] = record["image"].replace("1", "\x1b[31m1")
    record["spans"] = [span | {"type": TYPE} for span in record["spans"]]
    return json.dumps(record) + "\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Return a small corpus with hostile generators, types, ids and file names."""
    file = write_corpus(tmp_path_factory.mktemp("corpus"))
    for image in (file.parent / "images").iterdir():
        image.rename(image.with_name(image.name.replace("1", "\x1b[31m1")))
    file.write_text("".join(map(make_hostile, file.read_text().splitlines())))
    return file


@pytest.fixture
def predictions(corpus):
    """Return a prediction for it."""
    file = corpus.with_name("predictions.jsonl")
    records = [json.loads(line) for line in corpus.read_text().splitlines()]
    for record in records:
        for place, sentence in enumerate(record["sentences"]):
            sentence["p_incorrect"] = place / 4
        record["predicted"] = [span | {"score": 0.5} for span in record["spans"]]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.mark.slow
def test_a_run_shows_hostile_names_as_text(corpus, tmp_path):
    quoted = "'" + HELD_OUT + "'"
    out, error = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        run(*small_overrides(corpus), f"split.held_out=[{quoted}]", "trainer.max_steps=2", f"run_dir={tmp_path}")
    shown = (out.getvalue() + error.getvalue()).replace("\r", "")  # which the bar of training writes
    assert not STEERING.search(shown)
    assert SHOWN in re.sub(r"\n\s*", "", shown)


@pytest.fixture
def command(capsys, monkeypatch):
    """Run the console command; give its status and everything that it showed."""
    monkeypatch.setenv("COLUMNS", "80")

    def command(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out + captured.err

    return command


def test_a_judgment_shows_them_as_text_and_its_tables_hold_them_so(predictions, command, tmp_path):
    status, shown = command("judge", predictions, "--to", tmp_path)
    assert status == 0
    assert not STEERING.search(shown)
    assert SHOWN in re.sub(r"\n\s*", "", shown)
    head, *rows = csv.reader(StringIO((tmp_path / "table.csv").read_text()))
    assert f"'{SHOWN}" in head
    assert all(re.fullmatch(r"[\d.]*", cell) for row in rows for cell in row[3:])
    markdown = (tmp_path / "table.md").read_text()
    assert not STEERING.search(markdown)
    assert r"\|\<b\>" in markdown


def test_commands_show_them_as_text(corpus, predictions, command, tmp_path):
    for arguments in (
        ("data", "check", corpus),
        ("data", "stats", corpus),
        ("data", "convert", corpus, tmp_path / "\x1b[1mcaptions.jsonl", "--absolute"),
        ("compare", predictions, predictions, "--resamples", "100"),
    ):
        status, shown = command(*arguments)
        assert status == 0
        assert shown
        assert not STEERING.search(shown), arguments


def test_errors_show_them_as_text(corpus, command, tmp_path):
    lines = corpus.read_text().splitlines()
    bad = tmp_path / "captions.jsonl"
    for change in ({"id": f"{ID}\n", "text": 7}, {"generator": f"{HELD_OUT}\r\n", "direction": f"{HELD_OUT}\x85"}):
        bad.write_text(json.dumps(json.loads(lines[0]) | change) + "\n")
        for verb in ("check", "stats"):
            status, shown = command("data", verb, bad)
            assert status == 1
            assert not STEERING.search(shown)
    status, shown = command("data", "stats", tmp_path / "\x1b[2Jnowhere.jsonl")
    assert status == 1
    assert r"\x1b[2Jnowhere.jsonl" in shown
