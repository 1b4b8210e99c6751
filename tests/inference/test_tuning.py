import math
from dataclasses import replace

import numpy as np
import pytest

from halspan.core.captions import Caption, Prediction, Sentence, Span
from halspan.inference.scores import CaptionScores
from halspan.inference.tuning import (
    PRIOR_ITEMS,
    UNTUNED,
    Tuned,
    fit_temperature,
    logits_of,
    predict,
    sigmoid,
    tune,
    tune_decoding,
)
from halspan.metrics.summary import summarize

TEXT = "A red dog."
OFFSETS = np.array([[0, 1], [1, 5], [5, 9], [9, 10]])
TAXONOMY = ("Attribute", "Object")


def scores(p_token, *, spans=(), label="incorrect", logit=0.0, name="c"):
    caption = Caption(name, "a.png", "g", "image_to_text", TEXT, (Sentence(0, 10, label),), spans)
    return CaptionScores(
        caption=caption,
        offsets=OFFSETS,
        token_logit=logits_of(np.array(p_token)),
        p_type=np.full((4, 2), 0.5, dtype=np.float32),
        sentence_logit=(logit,),
        unscored=(None if logit is not None else "too long",),
    )


def temperature_of(share, n):
    """n items at logit 2, so many of which are positive, or their mirror images, and 10 calibrated ones there."""
    positive = (n * share + PRIOR_ITEMS / (1 + math.exp(-2))) / (n + PRIOR_ITEMS)
    return 2 / math.log(positive / (1 - positive))


@pytest.mark.parametrize("repeated", [1, 10_000])
def test_the_temperature_makes_the_probability_the_share_of_incorrect_sentences(repeated):
    # four sentences at logit 2, three of them incorrect, and their mirror image: sigmoid(2 / T) = 3/4, so T = 2 / ln 3,
    # and nearer to 1 the fewer there are
    logits = np.array([2, 2, 2, 2, -2, -2, -2, -2] * repeated, dtype=np.float64)
    incorrect = np.array([1, 1, 1, 0, 0, 0, 0, 1] * repeated, dtype=np.bool_)
    found = fit_temperature(logits, incorrect, what="sentences")
    assert found == pytest.approx(temperature_of(3 / 4, 8 * repeated), rel=1e-6)
    assert (found == pytest.approx(2 / math.log(3), rel=1e-3)) == (repeated > 1)


def test_few_sentences_do_not_let_the_temperature_fall_to_its_floor():
    source = np.random.default_rng(0)
    for _ in range(60):
        logits = source.normal(scale=3, size=9)  # three captions of three sentences
        incorrect = logits + source.normal(scale=0.5, size=9) > 0
        assert 0.4 < fit_temperature(logits, incorrect, what="sentences") < 3


def test_scores_that_rank_the_wrong_way_round_become_one_half():
    wrong = np.array([2.0, -2.0] * 1000), np.array([False, True] * 1000)
    temperature = fit_temperature(*wrong, what="sentences")
    assert 1 / (1 + math.exp(-2 / temperature)) == pytest.approx(0.5, abs=1e-3)


def test_one_class_says_nothing_about_the_temperature():
    assert fit_temperature(np.array([2.0, 3.0]), np.array([True, True]), what="sentences") == 1
    assert fit_temperature(np.zeros(0), np.zeros(0, dtype=np.bool_), what="sentences") == 1


def test_the_threshold_is_put_where_the_spans_are_found_exactly():
    items = [
        scores([0.0, 0.3, 0.1, 0.0], spans=(Span(2, 5, "Attribute"),)),
        scores([0.0, 0.1, 0.4, 0.0], spans=(Span(6, 9, "Object"),), name="d"),
    ]
    best = tune_decoding(items, Tuned(), TAXONOMY)
    assert 0.1 < best.threshold <= 0.3


def test_without_spans_the_decoding_stays_untuned():
    assert tune_decoding([scores([0.9, 0.9, 0.9, 0.9])], Tuned(), TAXONOMY) == UNTUNED


def test_logits_are_divided_by_the_temperature():
    tuned = Tuned(temperature=2.0)
    (prediction,) = predict([scores([0.0, 0.9, 0.0, 0.0], logit=2 * math.log(3))], tuned, TAXONOMY)
    assert prediction.sentences[0].p_incorrect == pytest.approx(0.75)
    assert [(span.start, span.end) for span in prediction.spans] == [(2, 5)]


def test_a_very_large_logit_is_a_probability_still():
    tuned = Tuned(temperature=0.05)
    for logit, p_incorrect in ((1e4, 1.0), (-1e4, 0.0)):
        (prediction,) = predict([scores([0.0] * 4, logit=logit)], tuned, TAXONOMY)
        assert prediction.sentences[0].p_incorrect == p_incorrect


def test_sentences_are_ranked_by_logits_where_their_probabilities_are_all_1():
    items = [
        scores([0.0] * 4, logit=logit, label=label, name=str(logit))
        for logit, label in ((60.0, "incorrect"), (50.0, "correct"), (45.0, "correct"))
    ]
    predictions = list(predict(items, Tuned(), TAXONOMY))
    assert {prediction.sentences[0].p_incorrect for prediction in predictions} == {1.0}
    assert summarize(predictions)[0]["sentence"]["auroc"]["pooled"] == 1
    again = [Prediction.from_record(prediction.to_record()) for prediction in predictions]
    assert summarize(again)[0]["sentence"]["auroc"]["pooled"] == 1


def test_predictions_carry_the_threshold_of_their_detector():
    (prediction,) = predict([scores([0.0] * 4)], Tuned(threshold=0.3), TAXONOMY)
    assert prediction.to_record()["threshold"] == 0.3
    assert Prediction.from_record(prediction.to_record()) == prediction


def test_an_unscored_sentence_gets_its_reason_and_no_span():
    (prediction,) = predict([scores([0.9] * 4, logit=None)], Tuned(), TAXONOMY)
    assert prediction.sentences[0].p_incorrect is None
    assert prediction.sentences[0].unscored == "too long"
    assert prediction.spans == ()


def test_what_was_tuned_survives_a_record():
    tuned = tune([scores([0.0, 0.3, 0.1, 0.0], spans=(Span(2, 5, "Attribute"),))], TAXONOMY)
    assert Tuned.from_record(tuned.to_record()) == tuned


def test_tokens_have_a_temperature_of_their_own():
    # of four tokens at logit 2 three are hallucinated, of four at -2 one is: T = 2 / ln 3, as for sentences above
    p = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))]
    items = [
        scores([p[0], p[0], p[0], p[0]], spans=(Span(0, 1), Span(2, 5), Span(6, 9))),
        scores([p[1], p[1], p[1], p[1]], spans=(Span(2, 5),), name="d"),
    ]
    tuned = tune(items, TAXONOMY)
    assert tuned.token_temperature == pytest.approx(temperature_of(3 / 4, 8), rel=1e-4)
    (prediction,) = predict(items[:1], replace(tuned, decoding=UNTUNED), TAXONOMY)
    assert prediction.spans[0].score == pytest.approx(1 / (1 + math.exp(-2 / tuned.token_temperature)), rel=1e-4)


def test_the_threshold_of_sentences_is_where_their_f1_is_highest():
    items = [
        scores([0.0] * 4, label=label, logit=value, name=str(value))
        for label, value in (("incorrect", 3.0), ("incorrect", 2.0), ("correct", 1.0), ("correct", -3.0))
    ]
    tuned = tune(items, TAXONOMY)
    assert sigmoid(1.0 / tuned.temperature) < tuned.threshold <= sigmoid(2.0 / tuned.temperature)


def test_probabilities_survive_logits():
    p = np.array([0.0, 1e-9, 0.25, 0.5, 1 - 1e-9, 1.0])
    np.testing.assert_allclose(sigmoid(logits_of(p)), p, atol=1e-15)
