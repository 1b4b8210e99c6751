"""Ensembles, baselines, and what may not leak from test labels into anything but test figures."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from small_runs import ROOT, run, small_overrides

from halspan.app import evaluate as evaluate_app
from halspan.app import judging_runs
from halspan.app.entry import run_entry
from halspan.evaluation.baselines.runner import IMAGE_BLIND, Baselines, Ground, judge_beside
from halspan.testing.small_corpora import write_corpus

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture(scope="module")
def members(corpus, finished_run, tmp_path_factory):
    """Give the folders of two runs, of the seeds 1 and 2."""
    folder = tmp_path_factory.mktemp("runs")
    run(*small_overrides(corpus), f"run_dir={folder / '2'}", "seed=2")
    return [shutil.copytree(finished_run, folder / "1"), folder / "2"]


def evaluate(monkeypatch, *arguments):

    monkeypatch.setattr(sys, "argv", [str(ROOT / "evaluate.py"), *map(str, arguments)])
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # pytest has its own
    with pytest.raises(SystemExit) as exit_:
        run_entry(evaluate_app.main, "evaluate")
    return exit_.value.code


def read(file):
    return json.loads(Path(file).read_text())


def read_lines(file):
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def scores_of(file):
    """Return each sentence's P(incorrect) by caption, and the predicted spans."""
    return {
        record["id"]: ([sentence["p_incorrect"] for sentence in record["sentences"]], record["predicted"])
        for record in read_lines(file)
    }


def test_test_labels_change_nothing_but_test_figures(corpus, members, tmp_path):
    """Train and judge twice; between the two, every label and span of the test captions is turned round."""
    first, second = members[0], tmp_path / "second"
    test = {
        id_ for part in ("test_seen", "test_heldout") for id_ in read(first / "split.json")["parts"][part]["captions"]
    }
    turned = {"correct": "incorrect", "incorrect": "correct", "unknown": "unknown"}
    records = read_lines(corpus)
    for record in records:
        if record["id"] in test:
            record["spans"] = []
            for sentence in record["sentences"]:
                sentence["label"] = turned[sentence["label"]]
    other = shutil.copytree(corpus.parent, tmp_path / "turned") / corpus.name
    other.write_text("".join(json.dumps(record) + "\n" for record in records))
    run(*small_overrides(other), f"run_dir={second}")

    assert read(second / "tuned.json") == read(first / "tuned.json")
    for part in ("val", "test_seen", "test_heldout"):
        assert scores_of(second / f"predictions/{part}.jsonl") == scores_of(first / f"predictions/{part}.jsonl")
    figures, before = read(second / "metrics.json"), read(first / "metrics.json")
    assert figures["val"] == before["val"]
    auroc = [metrics["test_heldout"]["sentence"]["auroc"]["macro"] for metrics in (figures, before)]
    assert auroc[0] == pytest.approx(1 - auroc[1])


def test_several_runs_are_judged_as_their_calibrated_average(monkeypatch, members):
    assert evaluate(monkeypatch, f"run=[{members[0]},{members[1]}]") == 0
    folder = members[0].with_name("1+2")
    metrics = read(folder / "metrics.json")
    assert metrics["detector"]["name"] == "1 + 2"
    assert set(metrics["members"]) == {"1", "2"}
    assert metrics["gain"]["over"] in metrics["members"]
    best = metrics["members"][metrics["gain"]["over"]]["sentence.auroc.macro"]
    assert best == max(row["sentence.auroc.macro"] for row in metrics["members"].values())
    gain = metrics["gain"]["sentence.auroc.macro"]["difference"]
    assert gain == pytest.approx(metrics["test_heldout"]["sentence"]["auroc"]["macro"] - best)
    assert (folder / "report.html").is_file()


def test_the_average_of_a_run_with_its_own_copy_is_that_run(monkeypatch, members, tmp_path):
    copies = [shutil.copytree(members[0], tmp_path / name) for name in ("a", "b")]
    assert evaluate(monkeypatch, f"run=[{copies[0]},{copies[1]}]") == 0
    alone, together = read(copies[0] / "metrics.json"), read(tmp_path / "a+b" / "metrics.json")
    for part in ("val", "test_seen", "test_heldout"):
        assert together[part]["sentence"]["auroc"] == alone[part]["sentence"]["auroc"]
    assert together["gain"]["sentence.auroc.macro"]["difference"] == 0


def test_an_ensemble_judges_another_corpus_with_what_its_own_validation_tuned(monkeypatch, members, tmp_path):
    other = write_corpus(tmp_path / "other", n_images=8, seed=5)
    runs = f"run=[{members[0]},{members[1]}]"
    assert evaluate(monkeypatch, runs, "data=jsonl", f"data.path={other}", f"to={tmp_path / 'there'}") == 0
    assert evaluate(monkeypatch, runs, f"to={tmp_path / 'own'}") == 0
    assert read(tmp_path / "there/tuned.json") == read(tmp_path / "own/tuned.json")
    metrics = read(tmp_path / "there/metrics.json")
    assert set(metrics["test_heldout"]["by_generator"]) == {"cleo"}
    assert metrics["test_heldout"]["n"]["sentences_in_train"] > 0  # the runs say which texts trained them


def test_a_sample_of_each_part_is_judged_and_the_figures_say_so(capsys, corpus, members, tmp_path):
    folder = tmp_path / "run"
    metrics = run(*small_overrides(corpus), "judge.captions=4", f"run_dir={folder}")
    whole = read(members[0] / "metrics.json")
    for part in ("val", "test_seen", "test_heldout"):
        assert (metrics[part]["n"]["captions"], whole[part]["n"].get("sampled_from")) == (4, None)
        assert metrics[part]["n"]["sampled_from"] == whole[part]["n"]["captions"] > 4
        said, of_whole = (scores_of(place / f"predictions/{part}.jsonl") for place in (folder, members[0]))
        assert len(said) == 4
        assert said.keys() <= of_whole.keys()
    assert metrics["cost"]["sentences"] < whole["cost"]["sentences"]
    assert len(scores_of(folder / "baselines/bow/test_heldout.jsonl")) == 4
    assert metrics["run"]["train"] == whole["run"]["train"]
    note = f"test_heldout: 4 of {whole['test_heldout']['n']['captions']} captions were judged (judge.captions)."
    assert note in (folder / "report.html").read_text()
    assert note in capsys.readouterr().out

    metrics = run(*small_overrides(corpus), "resume=true", f"run_dir={folder}")  # without a limit: judged again
    assert {part: metrics[part]["n"] for part in ("val", "test_heldout")} == {
        part: whole[part]["n"] for part in ("val", "test_heldout")
    }
    assert read(folder / "tuned.json") == read(members[0] / "tuned.json")


def test_baselines_alone_are_judged_on_a_sample_too(monkeypatch, corpus, tmp_path):
    where = ("data=jsonl", f"data.path={corpus}", f"to={tmp_path / 'alone'}", "baselines=[prior,bow]")
    assert evaluate(monkeypatch, *where, "judge.captions=30") == 0
    n = read(tmp_path / "alone/metrics.json")["all"]["n"]
    assert (n["captions"], n["sampled_from"]) == (30, len(read_lines(corpus)))
    assert len(scores_of(tmp_path / "alone/baselines/bow/all.jsonl")) == 30


def test_runs_of_different_splits_are_not_averaged(monkeypatch, capsys, corpus, members, tmp_path):
    run(*small_overrides(corpus), "split.held_out=[ben]", f"run_dir={tmp_path / 'ben'}")
    assert evaluate(monkeypatch, f"run=[{members[0]},{tmp_path / 'ben'}]") == 2
    assert "have different captions in train, so what judges one may have trained the other" in capsys.readouterr().err


def test_runs_of_a_corpus_and_of_its_edited_version_are_not_averaged(monkeypatch, capsys, members, tmp_path):
    other = shutil.copytree(members[1], tmp_path / "edited")
    split = read(other / "split.json")
    text, _, image = split["contents"]["captions"]["anna/0"].split()
    split["contents"]["captions"]["anna/0"] = f"{text} {'0' * 12} {image}"
    (other / "split.json").write_text(json.dumps(split))
    assert evaluate(monkeypatch, f"run=[{members[0]},{other}]") == 2
    said = f"{other} was trained on another corpus than {members[0]}: 1 caption has other labels, spans or votes"
    assert said in capsys.readouterr().err


def test_baselines_need_no_run_and_predict_every_caption(monkeypatch, corpus, tmp_path):
    arguments = ("data=jsonl", f"data.path={corpus}", "baselines=[prior,position,bow]", f"to={tmp_path / 'alone'}")
    assert evaluate(monkeypatch, *arguments) == 0
    metrics = read(tmp_path / "alone/metrics.json")
    assert set(metrics["baselines"]) == {"prior", "position", "bow"}
    assert metrics["baselines"]["bow"]["title"] == "bag of words, 5 folds"
    assert len(metrics["baselines"]["bow"]["ci95"]["sentence.auroc.pooled"]) == 2
    ids = {record["id"] for record in read_lines(corpus)}
    for name in metrics["baselines"]:
        assert set(scores_of(tmp_path / f"alone/baselines/{name}/all.jsonl")) == ids
    assert (tmp_path / "alone/report.html").is_file()


def test_models_that_nobody_trained_stand_beside_a_detector_with_their_cost_and_a_mark(monkeypatch, members, tmp_path):
    from halspan.testing.tiny_dual_encoders import save_tiny_dual_encoder

    save_tiny_dual_encoder("clip", tmp_path / "clip")
    arguments = ("baselines=[clipscore,zero_shot]", f"clipscore.model={tmp_path / 'clip'}", "model=llama4_tiny")
    assert evaluate(monkeypatch, f"run={members[0]}", *arguments, f"to={tmp_path / 'out'}") == 0
    metrics = read(tmp_path / "out/metrics.json")
    n = metrics["test_heldout"]["n"]
    clip, zero_shot = metrics["baselines"]["clipscore"], metrics["baselines"]["zero_shot"]
    assert clip["cost"]["image_encodings"] == n["images"]
    assert zero_shot["cost"]["image_encodings"] == n["sentences"]
    assert metrics["cost"]["image_encodings"] == n["images"]
    assert clip["random_weights"]
    assert zero_shot["random_weights"]
    assert "random weights" in (tmp_path / "out/report.html").read_text()


def state_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_baseline_whose_model_is_not_there_fails_before_anything_is_scored(monkeypatch, capsys, members, tmp_path):
    def score_run(*_, **__):
        raise AssertionError("the detector scored although a baseline cannot be loaded")

    monkeypatch.setattr(judging_runs, "score_run", score_run)
    before = state_of(members[0])
    assert evaluate(monkeypatch, f"run={members[0]}", "baselines=[zero_shot]", "model=qwen3_vl") == 1
    assert "error: baseline zero_shot: model.backbone: 'Qwen/Qwen3-VL-8B-Instruct'" in capsys.readouterr().err
    clip = ("baselines=[bow,clipscore]", f"clipscore.model={tmp_path / 'nowhere'}")
    assert evaluate(monkeypatch, f"run={members[0]}", *clip) == 1
    assert "error: baseline clipscore: clipscore.model: " in capsys.readouterr().err
    assert state_of(members[0]) == before


def test_weights_that_are_missing_beside_a_configuration_are_found_first(tmp_path):
    from halspan.core.errors import ModelError
    from halspan.evaluation.baselines.baseline_specs import ZeroShotSpec
    from halspan.evaluation.baselines.registry import check_model
    from halspan.models.backbones.tiny import save_tiny_llama4
    from halspan.models.model_spec import ModelSpec

    save_tiny_llama4(tmp_path)
    numbers = {"context": "causal", "max_tokens": 512, "pack_tokens": 512, "dtype": "float32", "attention": "eager"}
    spec = ZeroShotSpec(model=ModelSpec(backbone=str(tmp_path), prompt="?", lora=None, **numbers))
    check_model(spec)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        check_model(spec)


def test_a_baseline_that_was_asked_for_and_fails_replaces_nothing(monkeypatch, capsys, members, tmp_path):
    from halspan.core.errors import DataError
    from halspan.evaluation.baselines import text_only as blind

    def fail(*_):
        raise DataError("nothing can be learned")

    folder = shutil.copytree(members[0], tmp_path / "run")
    before = state_of(folder)
    monkeypatch.setitem(blind.FITS, "bow", fail)
    assert evaluate(monkeypatch, f"run={folder}", "baselines=[prior,bow]") == 1
    assert "error: baseline bow: nothing can be learned" in capsys.readouterr().err
    assert state_of(folder) == before


def test_of_the_baselines_beside_every_detector_one_may_fail(monkeypatch, corpus, tmp_path):
    from halspan.core.errors import DataError
    from halspan.evaluation.baselines import text_only as blind

    def fail(*_):
        raise DataError("nothing can be learned")

    monkeypatch.setitem(blind.FITS, "bow", fail)
    rows, reasons = judge_beside(IMAGE_BLIND, ground_of(corpus, tmp_path))
    assert rows["prior"]["sentence.auroc.macro"] is not None
    assert rows["bow"]["sentence.auroc.macro"] is None
    assert reasons == {"baselines.bow.sentence.auroc.macro": "baseline bow: nothing can be learned"}


def ground_of(file, folder):
    from halspan.data.readers.jsonl import JsonLines

    corpus = JsonLines(path=file).load()
    return Ground(
        corpus=corpus, train=corpus.captions[:40], test=corpus.captions[40:], part="all", folder=folder, seed=1
    )


def test_figures_on_other_captions_are_not_kept_which_is_said(caplog, corpus, tmp_path):
    from dataclasses import replace

    from halspan.core.files import write_json

    ground = ground_of(corpus, tmp_path)
    rows, reasons = judge_beside(Baselines(names=["position", "bow"]), ground)
    run = {"ground": ground.digest}
    write_json(tmp_path / "metrics.json", {"run": run, "baselines": rows, "reasons": reasons | {"val.x": "none"}})
    assert judge_beside(Baselines(names=["bow"]), ground) == (rows, {})
    assert not caplog.messages
    for other in ({"test": ground.test[1:]}, {"train": ground.train[1:]}, {"seed": 2}):
        assert list(judge_beside(Baselines(names=["bow"]), replace(ground, **other))[0]) == ["bow"]
    assert "baselines position: " in caplog.text


def test_baselines_that_were_not_asked_for_keep_their_figures_on_the_same_captions(monkeypatch, members, tmp_path):
    folder = shutil.copytree(members[0], tmp_path / "run")
    before = read(folder / "metrics.json")["baselines"]
    assert evaluate(monkeypatch, f"run={folder}", "baselines=[zero_shot]", "model=llama4_tiny") == 0
    metrics = read(folder / "metrics.json")
    assert list(metrics["baselines"]) == ["prior", "position", "bow", "zero_shot"]
    assert {name: metrics["baselines"][name] for name in before} == before
    assert "bag of words" in (folder / "report.html").read_text()


def test_baselines_alone_add_to_those_that_are_there_and_show_the_best(monkeypatch, capsys, corpus, tmp_path):
    where = ("data=jsonl", f"to={tmp_path / 'alone'}")
    for name in ("bow", "position", "prior"):
        assert evaluate(monkeypatch, *where, f"data.path={corpus}", f"baselines={name}") == 0
    metrics = read(tmp_path / "alone/metrics.json")
    assert list(metrics["baselines"]) == ["prior", "position", "bow"]
    best = max(metrics["baselines"].values(), key=lambda row: row["sentence.auroc.macro"])
    assert metrics["detector"]["name"] == best["title"]
    assert metrics["all"]["sentence"]["auroc"]["macro"] == best["sentence.auroc.macro"]
    other = write_corpus(tmp_path / "other", n_images=8, seed=5)
    before = state_of(tmp_path / "alone")
    assert evaluate(monkeypatch, *where, f"data.path={other}", "baselines=prior") == 2
    assert "has the figures of another corpus, captions of " in capsys.readouterr().err
    assert state_of(tmp_path / "alone") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["baselines=[words]"], "baselines: 'words' is none; possible: prior, position, bow, clipscore, zero_shot"),
        (["baselines=[zero_shot]"], "model: not given; the baseline zero_shot asks one: choose it, such as"),
        (["baselines=bow"], "run, data: neither is given"),
        (["baselines=[]"], "run, baselines: neither is given"),
        (
            ["clipscore.batch_sentences=0", "baselines=[clipscore]"],
            "clipscore.batch_sentences: must be greater than",
        ),
        (
            ["baselines=bow", "data=jsonl", "data.path=a", "judge.captions=0"],
            "judge.captions: must be greater than",
        ),
    ],
)
def test_what_is_wrong_about_baselines_is_one_line(monkeypatch, capsys, arguments, message):
    assert evaluate(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
