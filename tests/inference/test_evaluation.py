import numpy as np
import pytest

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span
from halspan.evaluation.figures import judge_part, judge_row, judge_tokens
from halspan.inference.scores import CaptionScores
from halspan.inference.tuning import Tuned, logits_of

TEXT = "A red dog. A cat."
OFFSETS = np.array([[0, 1], [1, 5], [5, 9], [9, 10], [10, 12], [12, 16], [16, 17]])


def caption(name, generator="g", labels=("incorrect", "correct")):
    sentences = (Sentence(0, 10, labels[0]), Sentence(11, 17, labels[1]))
    spans = (Span(2, 5, "Attribute"),) if labels[0] == "incorrect" else ()
    return Caption(name, f"{name}.png", generator, "image_to_text", TEXT, sentences, spans)


RED = PredictedSpan(2, 5, "Attribute", 0.9)


def prediction(*arguments, spans=(RED,)):
    """Say that first sentences are wrong, and that "red" is hallucinated."""
    return Prediction(caption(*arguments), (SentenceScore(0.9), SentenceScore(0.2)), spans)


PART = [
    prediction("a"),
    prediction("b"),
    prediction("c", "h", ("correct", "incorrect")),
    prediction("d", "i", ("correct", "correct")),
]
IMAGES = ["a", "b", "c", "d"]


def test_a_part_has_its_figures_those_of_each_generator_and_intervals():
    figures, reasons = judge_part(PART, images=IMAGES)
    assert figures["sentence"]["auroc"]["by_generator"] == {"g": 1, "h": 0, "i": None}
    assert figures["by_generator"]["g"]["sentence.auroc"] == figures["by_generator"]["g"]["span.char.f1"] == 1
    assert figures["by_generator"]["h"]["sentence.auroc"] == 0
    assert figures["by_generator"]["i"]["n"] == {"captions": 1, "sentences": 2, "incorrect": 0, "unknown": 0}
    assert reasons["sentence.auroc.by_generator.i"] == "one class only"
    assert reasons["ci95.sentence.auroc.by_generator.i"]


def test_intervals_lie_around_their_figures():
    part = [prediction(str(number), "g", ("incorrect", "correct")[:: 1 - 2 * (number % 2)]) for number in range(20)]
    figures, _ = judge_part(part, images=[item.caption.id for item in part])
    for path, figure in (("sentence.auroc.macro", figures["sentence"]["auroc"]["macro"]), ("span.char.f1", 2 / 3)):
        low, high = figures["ci95"][path]
        assert 0 <= low < figure < high <= 1


def test_why_an_interval_is_missing_is_told_under_its_path():
    figures, reasons = judge_part(PART[:1], images=IMAGES[:1])
    assert figures["ci95"] == {}
    assert set(reasons) >= {"ci95.sentence.auroc.macro", "ci95.span.char.f1"}


def test_the_threshold_decides_what_is_called_incorrect():
    figures, _ = judge_part(PART, images=IMAGES, threshold=0.1)
    # all eight sentences are called incorrect, three are
    assert figures["sentence"]["accuracy"] == 3 / 8
    assert figures["sentence"]["threshold"] == 0.1


def test_a_row_of_what_marks_no_words_has_no_figure_of_words():
    with_spans = judge_row("detector", PART, images=IMAGES)
    without = judge_row("words", [prediction("a", spans=()), PART[2]][:1], images=["a"], cost=None)
    assert with_spans["span.char.f1"] is not None
    assert without["span.char.f1"] is None
    assert without["title"] == "words"
    assert without["cost"] is None


def scores(p_token):
    return CaptionScores(
        caption=caption("a"),
        offsets=OFFSETS,
        token_logit=logits_of(np.array(p_token)),
        p_type=np.ones((7, 1), dtype=np.float32),
        sentence_logit=(2.0, -2.0),
        unscored=(None, None),
    )


def test_tokens_are_judged_at_the_threshold_of_the_decoding():
    # "red" is hallucinated; it and "dog" are marked
    figures, reasons = judge_tokens([scores([0, 0.9, 0.6, 0, 0, 0, 0])], Tuned())
    assert (figures["precision"], figures["recall"]) == (0.5, 1)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert "do not compare across tokenizers" in figures["note"]
    assert reasons == {}


def test_tokens_that_nobody_marked_have_no_figure_but_a_reason():
    item = scores([0] * 7)
    figures, reasons = judge_tokens([item], Tuned())
    assert (figures["f1"], figures["precision"]) == (0, None)
    assert reasons == {"token.precision": "nothing is predicted"}
