import csv
import io

import pytest

from halspan.reporting.paper_table import paper_table, to_csv, to_markdown

METRICS = {
    "test_heldout": {
        "n": {},
        "sentence": {"auroc": {"macro": 0.8, "by_generator": {"llama-4": 0.7004, "sd": 0.9}}},
        "ci95": {"sentence.auroc.macro": [0.75, 0.85]},
    },
    "detector": {"name": "ours", "family": "llama"},
    "members": {"run a": {"title": "run a", "sentence.auroc.macro": 0.75, "sentence.auroc.by_generator": {"sd": 0.75}}},
    "baselines": {
        "bow": {
            "title": "bag | words",
            "sentence.auroc.macro": 0.6,
            "sentence.auroc.by_generator": {"llama-4": 0.7001, "sd": 0.5},
            "cost": None,
        },
        "zero_shot": {
            "title": "zero-shot",
            "sentence.auroc.macro": 0.5,
            "sentence.auroc.by_generator": {"llama-4": 0.5, "sd": 0.5},
            "family": "llama",
            "random_weights": True,
            "cost": {"image_encodings": 4, "tokens": 80, "sentences": 4},
        },
    },
    "blind": {"sentence.auroc.macro": 0.95, "sentence.auroc.by_generator": {"llama-4": 0.95, "sd": 0.95}},
    "reasons": {"members.run a.sentence.auroc.by_generator.llama-4": "one class only"},
}


def test_the_markdown_of_a_small_table():
    # 0.7004 and 0.7001 are both shown as 70.0, so both are the best of their column; the control is out of it.
    assert to_markdown(paper_table(METRICS)) == (
        "| detector | llama-4 | sd | mean |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| ours | **70.0** (own) | **90.0** | **80.0** (75.0 to 85.0) |\n"
        "| run a | – | 75.0 | 75.0 |\n"
        "| bag \\| words | **70.0** | 50.0 | 60.0 |\n"
        "| zero-shot (random weights) | 50.0 (own) | 50.0 | 50.0 |\n"
        "| images exchanged | 95.0 | 95.0 | 95.0 |\n"
    )


def test_the_csv_of_a_small_table():
    assert to_csv(paper_table(METRICS)) == (
        "detector,kind,family,llama-4,sd,mean,mean_low,mean_high\n"
        "ours,detector,llama,70.0,90.0,80.0,75.0,85.0\n"
        "run a,member,,,75.0,75.0,,\n"
        "bag | words,baseline,,70.0,50.0,60.0,,\n"
        "zero-shot (random weights),baseline,llama,50.0,50.0,50.0,,\n"
        "images exchanged,control,,95.0,95.0,95.0,,\n"
    )


def test_a_missing_cell_has_its_reason():
    member = paper_table(METRICS).rows[1]
    assert [cell.figure.reason for cell in member.cells] == ["one class only", ""]


def test_a_baseline_without_image_encodings_is_image_blind():
    assert [row.name for row in paper_table(METRICS).rows if row.image_blind] == ["bow"]


def test_names_from_data_are_neither_markdown_nor_html_nor_formulas():
    metrics = {
        "all": {"n": {}, "sentence": {"auroc": {"macro": 0.5, "by_generator": {"=1+1<b>*|*\n": 0.5}}}},
        "detector": {"name": "a,b"},
    }
    table = paper_table(metrics)
    assert to_markdown(table).splitlines()[0] == "| detector | =1+1\\<b\\>\\*\\|\\* | mean |"
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert rows[0][3] == r"'=1+1<b>*|*\n"
    assert rows[1][0] == "a,b"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", " =", "＝"])
def test_no_name_begins_a_formula_and_every_number_stays_one(start):
    by_generator = {f"{start}cmd|' /C calc'!A0": 0.5}
    metrics = {
        "all": {"n": {}, "sentence": {"auroc": {"macro": 0.5, "by_generator": by_generator}}},
        "detector": {"name": f"{start}1", "family": f"{start}x"},
    }
    head, row = csv.reader(io.StringIO(to_csv(paper_table(metrics))))
    for text in (head[3], row[0], row[2]):
        assert text.startswith("'")
        assert text.isprintable()
    assert row[3:5] == ["50.0", "50.0"]


def test_no_name_steers_the_terminal_that_shows_a_table():
    metrics = {
        "all": {"n": {}, "sentence": {"auroc": {"macro": 0.5, "by_generator": {"a\x1b[31m\u202e": 0.5}}}},
        "detector": {"name": "b\x9b2J"},
    }
    table = paper_table(metrics)
    for text in (to_csv(table), to_markdown(table)):
        assert text.replace("\n", "").isprintable()


def test_without_anything_judged_the_table_is_empty():
    table = paper_table({})
    assert (table.generators, table.rows) == ((), ())
    assert to_markdown(table) == "| detector | mean |\n| --- | ---: |\n"
