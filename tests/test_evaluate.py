"""Judging a finished run again."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from small_runs import ROOT, figures

from halspan.app import evaluate as evaluate_app
from halspan.app.entry import run_entry
from halspan.data.readers.jsonl import JsonLines
from halspan.testing.small_corpora import write_corpus

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def place(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def evaluate(monkeypatch, *arguments):

    monkeypatch.setattr(sys, "argv", [str(ROOT / "evaluate.py"), *arguments])
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # pytest has its own
    with pytest.raises(SystemExit) as exit_:
        run_entry(evaluate_app.main, "evaluate")
    return exit_.value.code


def test_the_same_parts_get_the_same_figures_and_predictions(monkeypatch, place):
    names = ("tuned.json", "predictions/test_heldout.jsonl", "baselines/bow/test_heldout.jsonl")
    before = [figures(place), *((place / name).read_text() for name in names)]
    for name in ("metrics.json", *names[1:]):
        (place / name).unlink()
    assert evaluate(monkeypatch, f"run={place}") == 0
    assert [figures(place), *((place / name).read_text() for name in names)] == before


def test_the_corpus_may_have_moved(monkeypatch, place, corpus, tmp_path):
    shutil.copytree(corpus.parent, tmp_path / "moved")
    before = figures(place)
    assert evaluate(monkeypatch, f"run={place}", f"data.path={tmp_path / 'moved'}") == 0
    assert figures(place) == before


def test_the_runs_own_figures_are_never_those_of_another_corpus(monkeypatch, capsys, place, tmp_path):
    other = write_corpus(tmp_path / "other", n_images=40, seed=5)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert evaluate(monkeypatch, f"run={place}", f"data.path={other}") == 2
    error = capsys.readouterr().err
    assert f"data.path: {other} is not the corpus that the run in {place} was trained and judged on: " in error
    assert "have another text or generator (first: 'anna/0'); " in error
    assert f"in a folder of its own: data=jsonl data.path={other}" in error
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_corpus_that_was_edited_where_it_lies_is_named(monkeypatch, capsys, place, corpus, tmp_path):
    moved = shutil.copytree(corpus.parent, tmp_path / "moved") / corpus.name
    moved.write_text(moved.read_text().replace('"correct"', '"unknown"', 1))
    assert evaluate(monkeypatch, f"run={place}", f"data.path={moved}") == 2
    assert (
        "1 caption has other labels, spans or votes (first: 'anna/0'). Its figures are kept" in capsys.readouterr().err
    )


def test_lines_in_another_order_are_the_same_corpus_to_be_judged_on(monkeypatch, place, corpus, tmp_path):
    moved = shutil.copytree(corpus.parent, tmp_path / "moved") / corpus.name
    moved.write_text("".join(reversed(moved.read_text().splitlines(keepends=True))))
    before = figures(place)["test_heldout"]["sentence"]["auroc"]
    assert evaluate(monkeypatch, f"run={place}", f"data.path={moved}") == 0
    assert figures(place)["test_heldout"]["sentence"]["auroc"] == before


def test_another_corpus_is_divided_by_what_trained_the_detector(monkeypatch, capsys, place, tmp_path):
    other = write_corpus(tmp_path / "other", n_images=8, seed=5)
    before = (place / "metrics.json").read_text()
    assert evaluate(monkeypatch, f"run={place}", "data=jsonl", f"data.path={other}") == 0
    metrics = json.loads((place / "evaluations" / "captions" / "metrics.json").read_text())
    assert set(metrics["test_heldout"]["by_generator"]) == {"cleo"}
    assert set(metrics["test_seen"]["by_generator"]) <= {"anna", "ben", "paint"}
    assert (place / "metrics.json").read_text() == before
    namesake = write_corpus(tmp_path / "namesake", n_images=8, seed=6)
    assert evaluate(monkeypatch, f"run={place}", "data=jsonl", f"data.path={namesake}") == 2
    assert "evaluations/captions has the figures of another corpus, captions of 20 captions" in capsys.readouterr().err


def test_another_corpus_may_have_other_types(monkeypatch, place, tmp_path):
    other = write_corpus(tmp_path / "other", n_images=8, seed=5)
    other.write_text(other.read_text().replace('"Object"', '"Typo"'))
    assert evaluate(monkeypatch, f"run={place}", "data=jsonl", f"data.path={other}") == 0
    metrics = json.loads((place / "evaluations" / "captions" / "metrics.json").read_text())
    assert "Typo" in metrics["test_heldout"]["span"]["by_type"]


def test_images_that_trained_the_detector_judge_nothing(monkeypatch, capsys, place, corpus):
    assert evaluate(monkeypatch, f"run={place}", "data=jsonl", f"data.path={corpus}") == 0
    metrics = json.loads((place / "evaluations" / "captions" / "metrics.json").read_text())
    own = json.loads((place / "metrics.json").read_text())
    for part in ("test_seen", "test_heldout"):
        n_left_out = metrics[part]["n"].pop("left_out")  # the run itself has captions of train generators in train
        assert n_left_out >= own[part]["n"].pop("left_out")
        assert metrics[part] == own[part]


def test_a_run_that_has_not_finished_is_refused(monkeypatch, capsys, place):
    (place / "tuned.json").unlink()
    assert evaluate(monkeypatch, f"run={place}") == 2
    assert "has not finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: run, data: neither is given; give run=FOLDER to judge a detector, or data=... for baselines"),
        (["run=nowhere"], "error: run: 'nowhere' has no config.yaml and best.ckpt"),
        (
            ["run=nowhere", "part=val"],
            "error: part: unknown key; possible: baselines, clipscore, data, judge, run, seed, to, zero_shot",
        ),
    ],
)
def test_what_is_wrong_is_one_line(monkeypatch, capsys, arguments, message):
    assert evaluate(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.startswith(message)


def test_what_is_wrong_with_data_is_said_before_torch_is_imported(place):
    script = f"""
import sys
sys.argv = ["{ROOT / "evaluate.py"}", "run={place}", "data.path=nowhere.jsonl"]
from halspan.app import evaluate as evaluate_app
from halspan.app.entry import run_entry
try:
    run_entry(evaluate_app.main, "evaluate")
finally:
    print(sorted({{"torch", "pytorch_lightning"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert "error: data.path: 'nowhere.jsonl' does not exist" in done.stderr


def test_a_run_that_another_process_writes_to_is_not_judged(monkeypatch, capsys, place):
    code = "import sys, pathlib; from halspan.training.rundir import RunDirectory as R\n"
    code += "with R(pathlib.Path(sys.argv[1])).held(): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert evaluate(monkeypatch, f"run={place}") == 2
        assert f"run_dir: another process is training or judging in {place}; wait" in capsys.readouterr().err
        holder.kill()


def test_the_name_of_a_corpus_leads_nowhere(corpus, tmp_path):
    from types import SimpleNamespace

    from omegaconf import OmegaConf

    other = replace(JsonLines(path=corpus).load(), name="..")
    run = SimpleNamespace(place=SimpleNamespace(path=tmp_path / "run"))
    assert evaluate_app._folder([run], other, OmegaConf.create({"to": None})) == tmp_path / "run/evaluations/corpus"
