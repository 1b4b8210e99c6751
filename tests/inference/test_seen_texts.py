"""What training took from a part, on captions of two sentences each."""

import pytest

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span
from halspan.core.text.known_texts import KnownTexts
from halspan.data.split.parts import LeftOut, Taken
from halspan.evaluation.figures import judge_part
from halspan.evaluation.seen_texts import judge_beside_train


def caption(name, first="A red dog.", second="A cat.", generator="g", labels=("incorrect", "correct")):
    """Say two things, of which the third word to the seventh letter may be wrong."""
    sentences = (
        Sentence(0, len(first), labels[0]),
        Sentence(len(first) + 1, len(first) + 1 + len(second), labels[1]),
    )
    spans = (Span(2, 5, "Attribute"),) if labels[0] == "incorrect" else ()
    return Caption(name, f"{name}.png", generator, "image_to_text", f"{first} {second}", sentences, spans)


def predict(each, *scores, found=True):
    spans = (PredictedSpan(2, 5, "Attribute", 0.9),) if found else ()
    return Prediction(each, tuple(map(SentenceScore, scores)), spans)


TRAIN = [caption("t", "A red dog.", "A cow.")]
PART = [
    predict(caption("a"), 0.9, 0.2),  # "A red dog." is known
    predict(caption("b", "A RED  dog.", "A cow."), 0.8, 0.9),  # all of it is known
    predict(caption("c", "A tan dog.", "A hen."), 0.3, 0.4, found=False),  # nothing is
    predict(caption("d", "A big dog.", "A pig."), 0.7, 0.1),
]


def judge(part=PART, train=TRAIN, left_out=()):
    texts = None if train is None else KnownTexts.of(train)
    figures, _ = judge_part(part, images=[item.caption.image for item in part])
    metrics, reasons = judge_beside_train(
        {"val": figures}, {"val": part}, taken=Taken(texts=texts, left_out=left_out), image_of=lambda each: each.image
    )
    return metrics, reasons


def test_known_captions_and_sentences_are_counted():
    n = judge()[0]["val"]["n"]
    assert (n["captions"], n["captions_in_train"]) == (4, 1)
    assert (n["sentences"], n["sentences_in_train"]) == (8, 3)


def test_the_figures_without_known_sentences_stand_beside_the_others():
    metrics = judge()[0]["val"]
    without = metrics["without_train_texts"]
    assert without["n"] == {"captions": 3, "sentences": 5, "incorrect": 2, "unknown": 0}
    # of 0.9, 0.8, 0.3, 0.7 against 0.2, 0.9, 0.4, 0.1: 3.5 + 3 + 2 + 3 of 16; left are 0.3, 0.7 against 0.2, 0.4, 0.1
    assert metrics["sentence"]["auroc"]["macro"] == pytest.approx(11.5 / 16)
    assert without["sentence"]["auroc"] == {"macro": pytest.approx(5 / 6), "pooled": pytest.approx(5 / 6)}
    # nine of twelve characters are found; left are three of six
    assert metrics["span"]["char"]["f1"] == pytest.approx(2 * 9 / (9 + 12))
    assert without["span"]["char"]["f1"] == pytest.approx(2 * 3 / (3 + 6))
    assert set(without["ci95"]) <= {
        "sentence.auroc.macro",
        "sentence.auroc.pooled",
        "span.char.f1",
        "span.typed_char_f1",
    }


def test_where_no_text_is_known_the_figures_are_those_of_the_part():
    metrics, reasons = judge(train=[caption("t", "A new dog.", "An ox.")])
    figures = metrics["val"]
    assert figures["without_train_texts"]["sentence"]["auroc"]["macro"] == figures["sentence"]["auroc"]["macro"]
    assert figures["without_train_texts"]["ci95"].items() <= figures["ci95"].items()
    assert not [path for path in reasons if "without" in path]


def test_a_figure_that_the_part_lacks_has_a_reason_where_no_text_is_known_too():
    part = [predict(caption(name, labels=("correct", "correct")), 0.9, 0.2, found=False) for name in "ab"]
    metrics, reasons = judge(part, train=[caption("t", "A new dog.", "An ox.")])
    without = metrics["val"]["without_train_texts"]
    assert without["sentence"]["auroc"]["macro"] is without["span"]["char"]["f1"] is None
    assert reasons["val.without_train_texts.sentence.auroc.macro"] == "no generator has sentences of both classes"
    assert reasons["val.without_train_texts.span.char.f1"] == "no gold spans"
    assert reasons["val.without_train_texts.ci95.sentence.auroc.pooled"] == "undefined in 100% of the resamples"


def test_where_every_text_is_known_there_is_no_figure_and_why():
    metrics, reasons = judge(train=[item.caption for item in PART])
    without = metrics["val"]["without_train_texts"]
    assert without["n"] == {"captions": 0, "sentences": 0, "incorrect": 0, "unknown": 0}
    assert without["sentence"]["auroc"]["macro"] is without["span"]["char"]["f1"] is None
    assert reasons["val.without_train_texts.sentence.auroc.macro"] == "every sentence occurs in train"
    assert reasons["val.without_train_texts.span.char.f1"] == "every sentence occurs in train"


def test_where_the_texts_of_train_are_not_known_it_is_said():
    metrics, reasons = judge(train=None)
    assert metrics["val"]["without_train_texts"] is None
    assert "sentences_in_train" not in metrics["val"]["n"]
    assert reasons["val.without_train_texts"].startswith("the run's split.json does not list the texts")


def test_captions_left_out_are_counted_where_the_figures_are():
    gone = LeftOut(part="val", reason="their images are in train or val", by_generator={"g": 60, "h": 3})
    elsewhere = LeftOut(part=None, reason="not chosen", by_generator={"i": 5})
    metrics, reasons = judge(left_out=(gone, elsewhere))
    assert metrics["val"]["n"]["left_out"] == 63
    assert reasons["val.n.left_out"] == ("63 of 67 captions are left out: their images are in train or val (g 60, h 3)")
    assert [each["part"] for each in metrics["split"]["left_out"]] == ["val", None]
