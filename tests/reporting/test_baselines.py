import sys

import pytest

from halspan.core.captions import Caption, Sentence
from halspan.reporting.baselines import fit_bag_of_words, fit_position, judge_baselines


def caption(name, *labelled, generator="g"):
    text = " ".join(words for words, _ in labelled)
    sentences, start = [], 0
    for words, label in labelled:
        sentences.append(Sentence(start, start + len(words), label))
        start += len(words) + 1
    return Caption(name, "a.png", generator, "image_to_text", text, tuple(sentences))


TRAIN = [
    caption("a", ("A dog.", "correct"), ("A cat.", "incorrect")),
    caption("b", ("A dog.", "correct"), ("A cat.", "incorrect"), ("A cow.", "unknown")),
    caption("c", ("A cat.", "incorrect"), ("A dog.", "correct")),
]


def test_a_position_scores_its_smoothed_share_of_incorrect_training_sentences():
    # position 0: 1 of 3 incorrect, (1 + 1) / (3 + 2); position 1: 2 of 3, (2 + 1) / (3 + 2); unknown ones do not count
    score = fit_position(TRAIN)
    assert score(caption("d", ("X.", None), ("Y.", None))) == pytest.approx([2 / 5, 3 / 5])


def test_a_position_beyond_those_seen_counts_as_the_last():
    score = fit_position(TRAIN)
    assert score(caption("d", ("X.", None), ("Y.", None), ("Z.", None), ("W.", None)))[2:] == pytest.approx(
        [3 / 5, 3 / 5]
    )


def test_a_bag_of_words_learns_which_words_are_wrong():
    dog, cat = fit_bag_of_words(TRAIN)(caption("d", ("A dog.", None), ("A cat.", None)))
    assert dog < 0.5 < cat


def test_baselines_are_judged_on_captions_they_were_not_fitted_on():
    test = [caption("d", ("A cat.", "incorrect"), ("A dog.", "correct"), generator="h")]
    figures, reasons = judge_baselines(TRAIN, test)
    assert figures["bag_of_words"] == {"sentence.auroc.macro": 1.0, "sentence.auroc.by_generator": {"h": 1.0}}
    assert figures["position"]["sentence.auroc.macro"] == 0.0
    assert reasons == {}


def test_without_scikit_learn_the_figure_is_missing_with_its_reason(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    figures, reasons = judge_baselines(TRAIN, TRAIN)
    assert figures["bag_of_words"] == {"sentence.auroc.macro": None}
    assert "halspan[eval]" in reasons["baselines.bag_of_words.sentence.auroc.macro"]
