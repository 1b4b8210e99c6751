import json
from pathlib import Path

import numpy as np
import pytest

from halspan.core.captions import Caption, Prediction, Sentence, Span
from halspan.data.rows import Row
from halspan.inference.evaluation import evaluate, evaluate_blind
from halspan.inference.scoring import CaptionScores
from halspan.inference.tuning import UNTUNED, Tuned

TEXT = "A red dog. A cat."
OFFSETS = np.array([[0, 1], [1, 5], [5, 9], [9, 10], [10, 12], [12, 16], [16, 17]])
TAXONOMY = ("Attribute", "Object")


def row(name, generator="g", labels=("incorrect", "correct")):
    sentences = (Sentence(0, 10, labels[0]), Sentence(11, 17, labels[1]))
    spans = (Span(2, 5, "Attribute"),) if labels[0] == "incorrect" else ()
    return Row(Path("a.png"), (Caption(name, "a.png", generator, "image_to_text", TEXT, sentences, spans),))


def score(rows):
    """Say that "red" is hallucinated, and that first sentences are wrong."""
    for row in rows:
        for caption in row.captions:
            yield CaptionScores(
                caption=caption,
                offsets=OFFSETS,
                p_token=np.array([0, 0.9, 0, 0, 0, 0, 0], dtype=np.float32),
                p_type=np.tile(np.array([0.8, 0.2], dtype=np.float32), (7, 1)),
                sentence_logit=(2.0, -2.0),
                unscored=(None, None),
            )


def judge(tmp_path, tuned=None):
    parts = {
        "val": [row("a")],
        "test_heldout": [row("b"), row("c", "h", ("correct", "incorrect")), row("d", "i", ("correct", "correct"))],
    }
    return evaluate(parts, score=score, taxonomy=TAXONOMY, folder=tmp_path, tuned=tuned)


def test_each_part_gets_its_figures_and_each_generator_its_own(tmp_path):
    metrics, _ = judge(tmp_path)
    assert metrics["val"]["sentence"]["auroc"]["macro"] == 1
    held_out = metrics["test_heldout"]
    assert held_out["sentence"]["auroc"]["by_generator"] == {"g": 1, "h": 0, "i": None}
    assert held_out["by_generator"]["g"]["sentence.auroc"] == 1
    assert held_out["by_generator"]["g"]["span.char.f1"] == 1
    assert held_out["by_generator"]["h"]["sentence.auroc"] == 0
    assert held_out["by_generator"]["i"]["n"] == {"captions": 1, "sentences": 2, "incorrect": 0, "unknown": 0}


def test_what_cannot_be_computed_has_its_reason_under_the_part(tmp_path):
    metrics, _ = judge(tmp_path)
    assert metrics["reasons"]["test_heldout.sentence.auroc.by_generator.i"] == "one class only"


def test_predictions_are_captions_again(tmp_path):
    judge(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "test_heldout.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == ["b", "c", "d"]
    prediction = Prediction.from_record(records[0])
    assert prediction.caption == row("b").captions[0]
    assert [(span.start, span.end, span.type) for span in prediction.spans] == [(2, 5, "Attribute")]


def test_validation_tunes_unless_it_was_tuned_before(tmp_path):
    _, tuned = judge(tmp_path)
    assert tuned.temperature < 1  # two sentences, both on the right side: the sharper the better
    given = Tuned(temperature=7.0, decoding=UNTUNED)
    metrics, kept = judge(tmp_path, given)
    assert kept == given
    p_incorrect = 1 / (1 + np.exp(-2 / 7))
    assert metrics["val"]["sentence"]["brier"] == pytest.approx((1 - p_incorrect) ** 2)


def test_the_blind_control_gives_the_auroc_of_sentences():
    tuned = Tuned(temperature=1.0, decoding=UNTUNED)
    figures = evaluate_blind([row("b"), row("c", "h", ("correct", "incorrect"))], score=score, tuned=tuned, taxonomy=())
    assert figures == {"sentence.auroc.macro": 0.5, "sentence.auroc.by_generator": {"g": 1.0, "h": 0.0}}
