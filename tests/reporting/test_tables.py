import io

import pytest
from rich.console import Console

from halspan.reporting.plans import trainable_table
from halspan.reporting.sweeps import main_figures, summarize_sweep, sweep_tables
from halspan.reporting.tables import metrics_table


def shown(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def part(macro, char_f1, typed):
    return {
        "n": {"captions": 1200, "sentences": 10, "incorrect": 2, "unknown": 2},
        "sentence": {"auroc": {"macro": macro}},
        "span": {"char": {"f1": char_f1}, "typed_char_f1": typed},
        "ci95": {"sentence.auroc.macro": [0.9, 0.99], "sentence.auroc.by_generator.narrator": [0.91, 0.98]},
        "by_generator": {
            "narrator": {
                "n": {"captions": 1200, "sentences": 10, "incorrect": 2, "unknown": 2},
                "sentence.auroc": macro,
                "span.char.f1": char_f1,
                "span.typed_char_f1": typed,
            }
        },
    }


METRICS = {
    "test_heldout": part(0.9712, 0.8, None),
    "blind": {"title": "images exchanged", "sentence.auroc.macro": 0.51, "span.char.f1": 0.2},
    "baselines": {
        "bow": {"title": "bag of words", "sentence.auroc.macro": 0.55, "ci95": {"sentence.auroc.macro": [0.5, 0.6]}},
        "zero_shot": {"title": "zero-shot, x", "sentence.auroc.macro": None, "random_weights": True},
    },
    "reasons": {},
}


def test_figures_stand_by_part_and_generator_beside_those_without_the_image():
    text = shown(metrics_table(METRICS), 100)
    rows = [line.split() for line in text.splitlines()]
    assert ["test_heldout", "1,200", "25%", "0.971", "0.900-0.990", "0.800", "-"] in rows
    assert ["narrator", "1,200", "25%", "0.971", "0.910-0.980", "0.800", "-"] in rows
    assert ["images", "exchanged", "0.510", "0.200"] in rows
    assert ["bag", "of", "words", "0.550", "0.500-0.600", "-"] in rows
    assert ["zero-shot,", "x", "(random", "weights)", "-", "-"] in rows


def test_figures_without_texts_of_train_have_a_row_where_there_are_such_texts():
    without = part(0.612, None, None) | {"n": {"captions": 7, "sentences": 8, "incorrect": 1, "unknown": 0}}
    figures = METRICS["test_heldout"] | {"without_train_texts": without}
    some, none = (figures["n"] | {"sentences_in_train": n} for n in (3, 0))
    text = shown(metrics_table({"test_heldout": figures | {"n": some}, "reasons": {}}), 100)
    assert "without texts of train 7 12% 0.612" in " ".join(text.split())
    assert "texts of train" not in shown(metrics_table({"test_heldout": figures | {"n": none}, "reasons": {}}), 100)


def test_the_trained_share_is_shown_for_each_component_and_for_all():
    text = shown(trainable_table({"vision tower": (0, 900), "head": (100, 100)}))
    rows = [line.split() for line in text.splitlines()]
    assert ["vision", "tower", "0", "900", "0.0%"] in rows
    assert ["all", "100", "1,000", "10.0%"] in rows


def job(name, value, error=None):
    figures = {} if error else {"test_heldout.sentence.auroc.macro": value}
    return {
        "run_name": name,
        "run_dir": name,
        "overrides": [],
        "status": int(bool(error)),
        "error": error,
        "figures": figures,
    }


def test_a_sweep_has_the_mean_and_the_sample_deviation_over_runs_that_have_the_figure():
    sweep = summarize_sweep([job("a", 0.8), job("b", 0.9), job("c", None), job("d", None, "no images")])
    figures = sweep["summary"]["test_heldout.sentence.auroc.macro"]
    assert figures["mean"] == pytest.approx(0.85)
    assert figures["std"] == pytest.approx(0.1 / 2**0.5)  # (0.05^2 + 0.05^2) / (2 - 1), square root
    assert figures["n"] == 2


def test_one_run_has_no_deviation():
    assert summarize_sweep([job("a", 0.8)])["summary"]["test_heldout.sentence.auroc.macro"]["std"] is None


def test_the_table_of_a_sweep_has_one_row_per_run_and_says_what_failed():
    sweep = summarize_sweep([job("shapes-seed=1", 0.8), job("shapes-seed=2", None, "no images")])
    text = "".join(shown(table, 120) for table in sweep_tables(sweep))
    rows = [line.split() for line in text.splitlines()]
    assert ["shapes-seed=1", "0.800"] in rows
    assert ["shapes-seed=2", "failed:", "no", "images"] in rows
    assert ["mean", "0.800"] in rows


def test_a_run_of_a_sweep_is_called_by_what_the_others_do_not_have():
    own = ["seed=1", "seed=2"]
    jobs = [job(f"shapes-data.path=x-{seed}", 0.8) | {"overrides": ["data.path=x", seed]} for seed in own]
    (table, _) = sweep_tables(summarize_sweep(jobs))
    assert [[label, "0.800"] for label in own] == [
        line.split() for line in shown(table, 80).splitlines() if line.startswith("seed")
    ]
    (table, _) = sweep_tables(summarize_sweep(jobs[:1]))
    assert "shapes-data.path=x-seed=1" in shown(table, 80)


def test_runs_are_compared_by_their_main_figures():
    assert main_figures(METRICS) == {
        "test_heldout.sentence.auroc.macro": 0.9712,
        "test_heldout.span.char.f1": 0.8,
        "test_heldout.span.typed_char_f1": None,
        "blind.sentence.auroc.macro": 0.51,
    }
