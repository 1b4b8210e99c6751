"""`halspan judge` and `halspan compare`, through the function that the `halspan` script calls."""

import gzip
import io
import json
import sys

import pytest
from PIL import Image

from halspan.cli import main

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return run


def record(number, p_incorrect=(0.9, 0.1)):
    """Say of a picture what is wrong in the first or the second sentence, in turn; the first is always suspected."""
    labels = ("incorrect", "correct") if number % 4 else ("correct", "incorrect")
    sentences = [
        {"start": start, "end": end, "label": label, "p_incorrect": p}
        for (start, end), label, p in zip(((0, 10), (11, 17)), labels, p_incorrect, strict=True)
    ]
    return {
        "id": str(number),
        "image": f"images/{number}.png",
        "generator": "g",
        "direction": "image_to_text",
        "text": "A red dog. A cat.",
        "sentences": sentences,
        "spans": [{"start": 2, "end": 5, "type": "Attribute"}] if number % 4 else [],
        "predicted": [{"start": 2, "end": 5, "type": "Attribute", "score": 0.9}],
    }


def write(file, records):
    (file.parent / "images").mkdir(parents=True, exist_ok=True)
    for item in records:
        path = file.parent / item["image"]
        if not path.exists():
            Image.new("RGB", (4, 4), (int(item["id"]), 0, 0)).save(path)
    file.write_text("".join(json.dumps(item) + "\n" for item in records))
    return file


@pytest.fixture
def scored(tmp_path):
    return write(tmp_path / "scored.jsonl", [record(number) for number in range(16)])


def truth_of(records):
    """Leave what annotators said."""
    keep = ("id", "image", "generator", "direction", "text", "spans")
    sentences = [[{k: s[k] for k in ("start", "end", "label")} for s in item["sentences"]] for item in records]
    return [{key: item[key] for key in keep} | {"sentences": own} for item, own in zip(records, sentences, strict=True)]


def test_predictions_are_judged_by_the_labels_they_carry(run, scored, tmp_path):
    code, out, _ = run("judge", scored, "--to", tmp_path / "judged")
    assert code == 0
    figures = json.loads((tmp_path / "judged/metrics.json").read_text())["all"]
    # 12 of 16 first sentences are incorrect, and score 0.9; the other 16 labels the other way round: 12 * 12 wins of
    # incorrect over correct, 2 * 12 * 4 ties, of 16 * 16 pairs
    assert figures["sentence"]["auroc"]["macro"] == pytest.approx((12 * 12 + 12 * 4) / (16 * 16))
    assert "0.750" in out
    for name in ("report.html", "table.md", "table.csv"):
        assert (tmp_path / "judged" / name).is_file()


def test_results_go_beside_the_file_unless_told_otherwise(run, scored):
    assert run("judge", scored)[0] == 0
    assert (scored.parent / "scored/metrics.json").is_file()


def test_the_file_that_marks_a_finished_run_is_written_after_the_report(run, scored):
    report = scored.with_suffix("") / "report.html"
    report.mkdir(parents=True)  # what ends a run here leaves it without figures, and resume=true judges it again
    assert run("judge", scored)[2].startswith(f"error: --to: {scored.with_suffix('')} cannot be written (")
    assert not (report.parent / "metrics.json").exists()


def test_what_only_the_truth_or_only_the_predictions_have_is_counted(run, scored, tmp_path, caplog):
    truth = write(tmp_path / "truth/captions.jsonl", truth_of([record(number) for number in range(4, 20)]))
    assert run("judge", scored, "--truth", truth, "--to", tmp_path / "judged")[0] == 0
    assert "4 captions without a prediction, judged as unscored, such as '16'" in caplog.text
    assert "4 predictions for captions that are not in the truth, left out, such as '0'" in caplog.text
    n = json.loads((tmp_path / "judged/metrics.json").read_text())["all"]["n"]
    assert (n["captions"], n["sentences"], n["unscored"]) == (16, 32, 8)


def test_two_detectors_are_compared_on_the_same_captions(run, scored, tmp_path, caplog):
    better = [record(number, (0.9, 0.1) if number % 4 else (0.1, 0.9)) for number in range(15)]
    other = write(tmp_path / "better.jsonl", better)
    code, out, _ = run("compare", other, scored, "--json", tmp_path / "difference.json", "--seed", 3)
    assert code == 0
    assert "15 captions" in out
    assert "left out: 1 captions of" in caplog.text
    result = json.loads((tmp_path / "difference.json").read_text())
    difference = result["differences"]["sentence.auroc.macro"]
    assert result["captions"] == 15
    assert difference["a"] == 1
    assert difference["difference"] == pytest.approx(1 - difference["b"])
    assert 0 < difference["low"] < difference["difference"] < difference["high"]
    assert difference["p_a_better"] > 0.95


def test_a_detector_is_no_better_than_itself(run, scored, tmp_path):
    run("compare", scored, scored, "--json", tmp_path / "difference.json")
    difference = json.loads((tmp_path / "difference.json").read_text())["differences"]["sentence.auroc.macro"]
    assert (difference["difference"], difference["low"], difference["high"]) == (0, 0, 0)
    assert difference["p_a_better"] == 0.5


def test_images_that_are_gone_are_told_apart_by_their_path_and_that_is_said(run, scored, tmp_path, caplog):
    (scored.parent / "images/3.png").unlink()
    assert run("judge", scored, "--to", tmp_path / "judged")[0] == 0
    assert "1 of 16 images are told apart by their path, not their content" in caplog.text


def test_the_truth_needs_no_images(run, scored, tmp_path, caplog):
    truth = write(tmp_path / "truth/captions.jsonl", truth_of([record(number) for number in range(16)]))
    figures = []
    for name in ("with", "without"):
        assert run("judge", scored, "--truth", truth, "--to", tmp_path / name)[0] == 0
        figures.append(json.loads((tmp_path / name / "metrics.json").read_text())["all"])
        for number in range(0, 16, 4):  # those in which the suspected sentence is correct
            (tmp_path / f"truth/images/{number}.png").unlink(missing_ok=True)
    for name in ("n", "sentence", "span"):  # not the intervals: their draws follow the order of the images' keys
        assert figures[0][name] == figures[1][name]
    assert figures[1]["n"]["captions"] == 16
    assert "not in the truth" not in caplog.text
    assert caplog.text.count("4 of 16 images are told apart by their path") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "{scored}", "nowhere.jsonl"], "error: nowhere.jsonl: does not exist; give a run's folder"),
        (["judge", "nowhere.jsonl"], "error: nowhere.jsonl: cannot be read (No such file or directory)"),
        (["judge", "{scored}", "--truth", "nowhere"], "error: data.path: 'nowhere' does not exist"),
        (["judge", "{scored}", "--to", "{scored}/to"], "cannot be written (Not a directory); choose another place"),
        (["compare", "{scored}", "{scored}", "--json", "{scored}/a.json"], "a.json cannot be written (File exists)"),
    ],
)
def test_what_is_wrong_is_one_line(run, scored, arguments, message):
    code, _, err = run(*(argument.format(scored=scored) for argument in arguments))
    assert code == 1
    assert message in err


@pytest.mark.parametrize("command", ["judge", "compare"])
def test_help_has_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"halspan {command} " in out


def test_the_threshold_is_that_of_the_predictions_unless_another_is_given(run, tmp_path):
    own = [record(number, p_incorrect=(0.4, 0.1)) | {"threshold": 0.3} for number in range(16)]
    scored = write(tmp_path / "scored.jsonl", own)
    found = {}
    for given in ((), ("--threshold", 0.5)):
        assert run("judge", scored, *given)[0] == 0
        figures = json.loads((tmp_path / "scored" / "metrics.json").read_text())["all"]["sentence"]
        found[figures["threshold"]] = figures["f1"]
    assert found[0.3] > found[0.5] == 0  # nothing is called incorrect from 0.5 on


def test_predictions_of_several_detectors_have_no_threshold_in_common(run, tmp_path):
    scored = write(tmp_path / "s.jsonl", [record(number) | {"threshold": 0.3 + number / 100} for number in range(4)])
    code, _, err = run("judge", scored)
    assert code == 1
    assert "threshold: the predictions have 4, 0.3 to 0.33, so they are of several detectors" in err


def test_predictions_come_from_standard_input_and_from_compressed_files(run, scored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(scored.read_bytes()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(scored.read_bytes())))
    assert run("judge", scored)[0] == run("judge", packed)[0] == run("judge", "-", "--to", "piped")[0] == 0
    figures = [json.loads((tmp_path / name / "metrics.json").read_text())["all"] for name in ("packed", "piped")]
    assert figures == [json.loads((tmp_path / "scored" / "metrics.json").read_text())["all"]] * 2


def test_standard_input_is_judged_into_a_folder_that_is_given(run):
    code, _, err = run("judge", "-")
    assert (code, err.startswith("error: --to: standard input has no folder")) == (2, True)


def test_images_are_counted_by_their_content_as_the_intervals_draw_them(run, tmp_path):
    scored = write(tmp_path / "scored.jsonl", [record(number) for number in range(16)])
    for number in range(1, 16, 2):  # the same picture under two names
        (tmp_path / f"images/{number}.png").write_bytes((tmp_path / f"images/{number - 1}.png").read_bytes())
    run("judge", scored)
    assert json.loads((tmp_path / "scored" / "metrics.json").read_text())["all"]["n"]["images"] == 8
