import math

import pytest

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span
from halspan.metrics.judged import judged_sentences
from halspan.metrics.summary import summarize

TEXT = "A man rides a horse. He wears a hat."
#       0123456789012345678901234567890123456


def predict(generator, image, labels, scores, gold=(), found=()):
    """Predict a caption of two sentences; a score that is text is the reason why there is none."""
    sentences = tuple(
        Sentence(start, end, label) for (start, end), label in zip([(0, 20), (21, 36)], labels, strict=True)
    )
    judged = tuple(SentenceScore(None, each) if isinstance(each, str) else SentenceScore(each) for each in scores)
    spans = tuple(PredictedSpan(*each, 0.9) for each in found)
    caption = Caption(
        f"{generator}/{image}", image, generator, "image_to_text", TEXT, sentences, tuple(Span(*each) for each in gold)
    )
    return Prediction(caption, judged, spans)


PART = [
    predict("a", "1.png", ["incorrect", "correct"], [0.75, 0.25], [(14, 19, "Object")], [(12, 19, "Object")]),
    predict(
        "a", "1.png", ["incorrect", "correct"], [0.5, 0.5], [(2, 5, "Number")], [(2, 5, "Object"), (30, 35, "Text")]
    ),
    predict("b", "2.png", ["correct", "unknown"], [0.25, 0.75], (), [(22, 30, "Object")]),
    predict("c", "3.png", ["incorrect", "correct"], [0.25, "too long"], (), [(0, 5, "Text")]),
    predict("c", "4.png", ["correct", None], [0.5, 0.5]),
]


def test_the_summary_of_a_part_worked_by_hand():
    figures, reasons = summarize(PART)
    assert figures["n"] == {
        "captions": 5,
        "sentences": 10,
        "incorrect": 3,
        "unknown": 2,  # one called so, one without a label
        "unscored": 1,
        "no_span": 1,
        "spans": 2,
        "images": 4,
    }
    # a: incorrect 0.75, 0.5 against correct 0.25, 0.5: 1 + 1 + 1 + 1/2 of 4. b: no incorrect one. c: 0.25 < 0.5.
    assert figures["sentence"]["auroc"]["by_generator"] == {"a": 3.5 / 4, "b": None, "c": 0}
    assert figures["sentence"]["auroc"]["macro"] == (3.5 / 4 + 0) / 2
    # Incorrect 0.75, 0.5, 0.25 against correct 0.25, 0.5, 0.25, 0.5: 4 + (1 + 1 + 1/2 + 1/2) + (1/2 + 1/2) of 12.
    assert figures["sentence"]["auroc"]["pooled"] == pytest.approx(8 / 12)
    # Levels 0.75: 1 of 1; 0.5: 2 of 4; 0.25: 3 of 7; each gains a third of the recall.
    assert figures["sentence"]["auprc"] == pytest.approx((1 + 2 / 4 + 3 / 7) / 3)
    # Squares: incorrect 1/16, 1/4, 9/16; correct 1/16, 1/4, 1/16, 1/4.
    assert figures["sentence"]["brier"] == pytest.approx((1 + 4 + 9 + 1 + 4 + 1 + 4) / 16 / 7)
    # With more bins than sentences each level is its own bin: |0.75 - 1|, |1.5 - 1|, |0.75 - 1|.
    assert figures["sentence"]["ece"] == pytest.approx((0.25 + 0.5 + 0.25) / 7)
    # Called incorrect from 0.5 on: two of three incorrect sentences, and two of four correct ones.
    assert figures["sentence"]["threshold"] == 0.5
    assert figures["sentence"]["accuracy"] == pytest.approx((2 + 2) / 7)
    assert figures["sentence"]["f1"] == pytest.approx(2 * 2 / (4 + 3))
    # Above 0.5 there is no correct sentence and one of three incorrect ones; from 0.5 on, half of the correct ones.
    assert figures["sentence"]["recall_at_10fpr"] == pytest.approx(1 / 3)
    # Captions 1 and 2 share 5 of 7 and 3 of 8 characters; the prediction of 3 lies in an unknown sentence, that of 4
    # in an incorrect one without spans.
    assert figures["span"]["char"] == {
        "precision": 8 / 15,
        "recall": 1,
        "f1": pytest.approx(2 * 8 / (15 + 8)),
    }
    assert figures["span"]["typed_char_f1"] == pytest.approx(2 * 5 / (15 + 8))
    assert figures["span"]["iou"] == pytest.approx((5 / 7 + 3 / 8 + 1 + 1 + 1) / 5)
    assert figures["span"]["iou_where_span"] == pytest.approx((5 / 7 + 3 / 8) / 2)
    # No span agrees in start, end and type; one in start and end, another one overlaps, and has the same type;
    # 3 predicted, 2 annotated.
    assert figures["span"]["strict"] == {"precision": 0, "recall": 0, "f1": 0}
    assert figures["span"]["exact"] == {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 * 1 / (3 + 2)}
    assert figures["span"]["type"] == {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 * 1 / (3 + 2)}
    assert figures["span"]["partial"] == {"precision": 1.5 / 3, "recall": 1.5 / 2, "f1": 2 * 1.5 / (3 + 2)}
    # Nothing is called Number; of 7 + 3 characters called Object 5 are, and no other one is.
    assert figures["span"]["by_type"] == {
        "Number": {"char_recall": 1, "typed": {"precision": None, "recall": 0, "f1": 0}},
        "Object": {"char_recall": 1, "typed": {"precision": 5 / 10, "recall": 1, "f1": pytest.approx(2 * 5 / 15)}},
    }
    assert list(figures["slices"]) == ["position", "length", "direction", "type", "agreement"]
    assert reasons == {
        "sentence.auroc.by_generator.b": "one class only",
        "span.by_type.Number.typed.precision": "nothing is predicted",
    }


def test_the_threshold_decides_accuracy_and_f1_and_nothing_else():
    half, higher = (summarize(PART, threshold=threshold)[0] for threshold in (0.5, 0.6))
    # From 0.6 on one of three incorrect sentences is called so, and no correct one.
    assert higher["sentence"]["accuracy"] == pytest.approx((1 + 4) / 7)
    assert higher["sentence"]["f1"] == pytest.approx(2 * 1 / (1 + 3))
    differing = {path for path, value in leaves(half).items() if leaves(higher)[path] != value}
    assert differing == {"sentence.threshold", "sentence.accuracy", "sentence.f1"}


def leaves(figures: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in figures.items():
        flat |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


@pytest.mark.parametrize("part", [[], PART, PART[2:3], PART[4:]], ids=["empty", "all", "one class", "no spans"])
def test_every_missing_figure_has_a_reason_and_every_reason_a_missing_figure(part):
    figures, reasons = summarize(part)
    counts = figures.pop("slices")  # they say by their counts why something is missing
    assert "n_voted" in counts["agreement"]
    assert {path for path, value in leaves(figures).items() if value is None} == set(reasons)


def test_a_part_without_gold_spans_has_no_span_figures():
    figures, reasons = summarize(PART[2:3])
    assert {path: value for path, value in leaves(figures["span"]).items() if value is not None} == {}
    assert reasons["span.char.f1"] == reasons["span.iou"] == reasons["span.strict.f1"] == "no gold spans"


def test_gold_spans_in_unknown_sentences_only_are_none():
    part = [predict("a", "1.png", ["correct", "unknown"], [0.5, 0.5], [(24, 29, "Object")], [(24, 29, "Object")])]
    figures, reasons = summarize(part)
    assert figures["span"]["char"]["f1"] is None
    assert figures["span"]["by_type"] == {}
    assert reasons["span.char.f1"] == "no gold spans"


def test_predicting_nothing_gives_f1_0_and_no_precision():
    figures, reasons = summarize([predict("a", "1.png", ["incorrect", "correct"], [0.5, 0.5], [(2, 5, "Object")])])
    assert (figures["span"]["char"]["f1"], figures["span"]["char"]["precision"]) == (0, None)
    assert reasons == {
        f"span.{criterion}.precision": "nothing is predicted"
        for criterion in ("char", "strict", "exact", "partial", "type", "by_type.Object.typed")
    }


def test_gold_spans_without_types_have_no_typed_figure():
    part = [predict("a", "1.png", ["incorrect", "correct"], [0.5, 0.5], [(2, 5, None)], [(2, 5, "Object")])]
    figures, reasons = summarize(part)
    assert figures["span"]["char"]["f1"] == 1
    assert reasons == {"span.typed_char_f1": "no gold span has a type"}


def test_without_a_scored_sentence_there_are_no_sentence_figures():
    figures, reasons = summarize([predict("a", "1.png", ["incorrect", "correct"], ["too long", "too long"])])
    assert figures["n"]["unscored"] == 2
    assert figures["sentence"].pop("threshold") == 0.5
    assert set(leaves(figures["sentence"]).values()) == {None}
    assert reasons["sentence.auroc.by_generator.a"] == "no sentence is both labeled and scored"
    assert reasons["sentence.auroc.macro"] == "no generator has sentences of both classes"


def test_f1_of_sentences_needs_an_incorrect_one_but_accuracy_does_not():
    figures, reasons = summarize(PART[2:3])
    assert figures["sentence"]["accuracy"] == 1
    assert figures["sentence"]["f1"] is None
    assert reasons["sentence.f1"] == "no sentence is incorrect"


def test_no_figure_is_ever_not_a_number():
    for part in ([], PART, PART[2:3]):
        assert not any(isinstance(value, float) and math.isnan(value) for value in leaves(summarize(part)[0]).values())


def test_judged_sentences_are_those_with_a_label_and_a_score():
    judged = judged_sentences(PART)
    assert judged.p_incorrect.tolist() == [0.75, 0.25, 0.5, 0.5, 0.25, 0.25, 0.5]
    assert judged.incorrect.tolist() == [True, False, True, False, False, True, False]
    assert judged.generator.tolist() == ["a", "a", "a", "a", "b", "c", "c"]
    assert judged.caption.tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert judged.position.tolist() == [0, 1, 0, 1, 0, 0, 0]
