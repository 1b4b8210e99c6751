import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from random_predictions import random_predictions

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span
from halspan.core.errors import DataError
from halspan.metrics.bootstrap import compare, intervals
from halspan.metrics.resampling import draw_images, number_images, resampled_figures
from halspan.metrics.summary import summarize

PATHS = {
    "sentence.auroc.macro",
    "sentence.auroc.pooled",
    "sentence.auroc.by_generator.a",
    "sentence.auroc.by_generator.b",
    "sentence.auroc.by_generator.c",
    "sentence.auprc",
    "sentence.brier",
    "sentence.f1",
    "span.char.precision",
    "span.char.recall",
    "span.char.f1",
    "span.typed_char_f1",
    "span.iou",
    "span.strict.f1",
    "span.partial.f1",
}


def images_of(predictions: list[Prediction]) -> list[str]:
    return [prediction.caption.image for prediction in predictions]


def look_up(figures: dict, path: str) -> float | None:
    for name in path.split("."):
        figures = figures[name]
    return figures


def predict(name: str, image: str, *rows: tuple[str, float], generator: str = "a") -> Prediction:
    """Predict a caption of sentences of one character: label and p_incorrect."""
    sentences = tuple(Sentence(at, at + 1, label) for at, (label, _) in enumerate(rows))
    caption = Caption(name, image, generator, "image_to_text", "x" * len(rows), sentences)
    return Prediction(caption, tuple(SentenceScore(p) for _, p in rows))


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_a_resample_are_those_of_its_captions(seed):
    predictions = random_predictions(seed)
    image = number_images(predictions, images_of(predictions))
    draws = draw_images(image, n_resamples=8, seed=seed)
    figures = resampled_figures(predictions, image, draws, threshold=0.375)
    assert set(figures) == PATHS
    for resample, counts in enumerate(draws):
        drawn = [each for each, number in zip(predictions, image, strict=True) for _ in range(counts[number])]
        expected, _ = summarize(drawn, threshold=0.375)
        for path in PATHS:
            assert figures[path][resample] == pytest.approx(look_up(expected, path), abs=1e-12), path


def test_resamples_do_not_depend_on_each_other():
    # So many that they are computed in several chunks.
    predictions = random_predictions(0)
    image = number_images(predictions, images_of(predictions))
    draws = draw_images(image, n_resamples=50_000, seed=0)
    whole, end = (resampled_figures(predictions, image, each) for each in (draws, draws[-3:]))
    for path in PATHS:
        assert whole[path][-3:] == pytest.approx(end[path], abs=1e-12, nan_ok=True), path


def test_what_is_undefined_in_a_resample_is_not_a_number():
    # Image 0 has an incorrect sentence of a, image 1 everything else.
    predictions = [
        predict("0", "0", ("incorrect", 0.75)),
        predict("1", "1", ("correct", 0.25)),
        predict("2", "1", ("correct", 0.25), ("incorrect", 0.5), generator="b"),
    ]
    image = number_images(predictions, images_of(predictions))
    figures = resampled_figures(predictions, image, np.array([[1, 1], [2, 0], [0, 2]]))
    assert figures["sentence.auroc.by_generator.a"][0] == 1
    assert np.isnan(figures["sentence.auroc.by_generator.a"]).tolist() == [False, True, True]
    assert np.isnan(figures["sentence.auroc.by_generator.b"]).tolist() == [False, True, False]
    # the macro figure averages a and b in every resample, or nothing
    assert np.isnan(figures["sentence.auroc.macro"]).tolist() == [False, True, True]
    assert np.isnan(figures["sentence.auroc.pooled"]).tolist() == [False, True, False]
    assert np.isnan(figures["sentence.auprc"]).tolist() == [False, True, False]
    assert np.isnan(figures["sentence.brier"]).tolist() == [False, False, False]
    assert np.isnan(figures["span.char.f1"]).all()


def test_a_resample_without_gold_spans_has_no_span_figures_whatever_is_predicted():
    # Image 0 has a span that is found, image 1 a false alarm of two characters.
    found, false_alarm = (
        predict(name, name, *[(label, 0.5)] * 2) for name, label in (("0", "incorrect"), ("1", "correct"))
    )
    predictions = [
        replace(found, caption=replace(found.caption, spans=(Span(0, 2),)), spans=(PredictedSpan(0, 2, None, 0.5),)),
        replace(false_alarm, spans=(PredictedSpan(0, 2, None, 0.5),)),
    ]
    figures = resampled_figures(predictions, np.array([0, 1]), np.array([[2, 0], [1, 1], [0, 2]]))
    assert figures["span.char.precision"] == pytest.approx([1, 1 / 2, np.nan], nan_ok=True)
    assert figures["span.char.f1"] == pytest.approx([1, 2 / 3, np.nan], nan_ok=True)
    assert figures["span.iou"] == pytest.approx([1, 1 / 2, np.nan], nan_ok=True)


def test_draws_are_as_many_images_as_there_are():
    draws = draw_images(np.array([0, 1, 2, 2, 1]), n_resamples=1000, seed=0)
    assert draws.shape == (1000, 3)
    assert set(draws.sum(axis=1)) == {3}
    assert draws.mean(axis=0) == pytest.approx([1, 1, 1], abs=0.1)


def test_an_interval_holds_the_middle_of_the_resamples():
    predictions = random_predictions(0)
    image = number_images(predictions, images_of(predictions))
    values = resampled_figures(predictions, image, draw_images(image, n_resamples=200, seed=3))["sentence.brier"]
    found, _ = intervals(predictions, images=images_of(predictions), n_resamples=200, seed=3, level=0.9)
    assert found["sentence.brier"] == tuple(np.quantile(values, [0.05, 0.95]))


def test_every_figure_has_an_interval_around_it_or_a_reason():
    predictions = random_predictions(1)
    figures, _ = summarize(predictions)
    found, reasons = intervals(predictions, images=images_of(predictions), n_resamples=200)
    assert set(found) | set(reasons) == PATHS
    assert reasons == {}
    assert all(low <= look_up(figures, path) <= high for path, (low, high) in found.items())


def test_seeds_repeat():
    predictions = random_predictions(0)
    first, again, other = (
        intervals(predictions, images=images_of(predictions), n_resamples=50, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert first == again
    assert first["sentence.brier"] != other["sentence.brier"]


def test_no_order_of_the_captions_changes_an_interval():
    predictions = random_predictions(0)
    shuffled = [predictions[index] for index in np.random.default_rng(0).permutation(len(predictions))]
    found, moved = (intervals(each, images=images_of(each), n_resamples=50)[0] for each in (predictions, shuffled))
    assert {path: pytest.approx(value, abs=1e-12) for path, value in found.items()} == moved


def test_captions_of_one_image_come_together():
    # Ten images whose five captions are alike, all right or all wrong: by captions the interval would be narrower.
    predictions = [
        predict(f"{image}/{number}", str(image), ("correct", float(image % 2)))
        for image in range(10)
        for number in range(5)
    ]
    by_image, _ = intervals(predictions, images=images_of(predictions))
    by_caption, _ = intervals(predictions, images=[each.caption.id for each in predictions])
    (low, high), (narrow_low, narrow_high) = by_image["sentence.brier"], by_caption["sentence.brier"]
    assert (high - low) / (narrow_high - narrow_low) == pytest.approx(math.sqrt(5), rel=0.25)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # The Brier score of sentences that are all wrong or all right by a coin is a mean of 60 coins, whose truth is 1/2.
    # Of 100 intervals at 80 %, 80 should hold it, give or take three times sqrt(100 * 0.8 * 0.2) = 4.
    source = np.random.default_rng(0)
    n_covering = 0
    for repetition in range(100):
        coins = source.integers(2, size=60)
        predictions = [predict(str(n), str(n), ("correct", float(coin))) for n, coin in enumerate(coins)]
        found, _ = intervals(predictions, images=images_of(predictions), n_resamples=200, seed=repetition, level=0.8)
        low, high = found["sentence.brier"]
        n_covering += low <= 0.5 <= high
    assert 80 - 12 <= n_covering <= 80 + 12


def test_one_image_gives_no_interval():
    predictions = [predict("0", "0", ("incorrect", 0.75), ("correct", 0.25)), predict("1", "0", ("correct", 0.25))]
    found, reasons = intervals(predictions, images=images_of(predictions))
    assert found == {}
    assert reasons["sentence.auroc.macro"] == "fewer than two images, so there is nothing to resample"


def test_a_figure_that_too_many_resamples_lack_has_no_interval():
    # One of ten images has the incorrect sentence: it is in none of the draws with probability 0.9^10 = 0.35.
    predictions = [predict(str(n), str(n), ("incorrect" if n == 0 else "correct", 0.5)) for n in range(10)]
    found, reasons = intervals(predictions, images=images_of(predictions), n_resamples=2000)
    assert "sentence.brier" in found
    share = int(reasons["sentence.auroc.pooled"].removeprefix("undefined in ").removesuffix("% of the resamples"))
    assert share == pytest.approx(35, abs=3)
    assert reasons["span.char.f1"] == "undefined in 100% of the resamples"


def test_a_figure_that_few_resamples_lack_has_an_interval_of_the_others():
    # Five of ten images: none of them is drawn with probability 0.5^10, and only them as rarely.
    predictions = [predict(str(n), str(n), ("incorrect" if n % 2 else "correct", n / 10)) for n in range(10)]
    found, reasons = intervals(predictions, images=images_of(predictions), n_resamples=5000)
    assert set(reasons) == {path for path in reasons if path.startswith("span.")}
    low, high = found["sentence.auroc.macro"]
    assert 0 <= low < high <= 1


def test_nothing_has_no_intervals():
    found, reasons = intervals([], images=[])
    assert found == {}
    assert reasons["sentence.auroc.macro"].startswith("fewer than two images")


def test_images_are_as_many_as_predictions():
    with pytest.raises(ValueError, match="1 for 2 predictions"):
        intervals([predict("0", "0", ("correct", 0.5))] * 2, images=["0"])


def test_a_detector_is_as_good_as_itself():
    predictions = random_predictions(0)
    found = compare(predictions, predictions, images=images_of(predictions), n_resamples=50)
    assert set(found) == PATHS - {"sentence.f1"}
    figures, _ = summarize(predictions)
    for path, each in found.items():
        assert each.a == each.b == pytest.approx(look_up(figures, path))
        assert (each.difference, each.low, each.high, each.p_a_better) == (0, 0, 0, 0.5)


def sharpen(predictions: list[Prediction], by: float) -> list[Prediction]:
    """Move the scores of judged sentences toward their labels."""
    return [
        replace(
            prediction,
            sentences=tuple(
                score
                if score.p_incorrect is None
                else SentenceScore((1 - by) * score.p_incorrect + by * (sentence.label == "incorrect"))
                for sentence, score in zip(prediction.caption.sentences, prediction.sentences, strict=True)
            ),
        )
        for prediction in predictions
    ]


def test_a_better_detector_is_seen_to_be_better_also_where_lower_is_better():
    plain = random_predictions(0)
    sharp = sharpen(plain, 0.5)
    found = compare(sharp, plain, images=images_of(plain), n_resamples=100)
    assert found["sentence.auroc.macro"].difference > 0
    assert found["sentence.auroc.macro"].p_a_better == 1
    assert found["sentence.brier"].difference < 0
    assert found["sentence.brier"].high < 0
    assert found["sentence.brier"].p_a_better == 1
    assert found["span.char.f1"].p_a_better == 0.5
    mirrored = compare(plain, sharp, images=images_of(plain), n_resamples=100)
    assert mirrored["sentence.brier"].low == pytest.approx(-found["sentence.brier"].high)
    assert mirrored["sentence.brier"].p_a_better == 0


def test_the_interval_of_a_difference_is_paired():
    # The same ranking error in both: each alone varies, their difference does not.
    plain = random_predictions(0)
    shifted = sharpen(plain, 0.01)
    each = intervals(plain, images=images_of(plain), n_resamples=200)[0]["sentence.brier"]
    difference = compare(plain, shifted, images=images_of(plain), n_resamples=200)["sentence.brier"]
    assert difference.high - difference.low < 0.1 * (each[1] - each[0])


def test_an_undefined_difference_has_a_reason():
    predictions = [predict(str(n), str(n), ("correct", 0.5)) for n in range(3)]
    each = compare(predictions, predictions, images=images_of(predictions))["sentence.auroc.macro"]
    assert (each.a, each.b, each.difference, each.low, each.high, each.p_a_better) == (None,) * 6
    assert each.reason == "undefined in 100% of the resamples"


def test_one_image_has_a_difference_but_no_interval_of_it():
    a, b = ([predict("0", "0", ("incorrect", p), ("correct", 0.5))] for p in (0.75, 0.25))
    each = compare(a, b, images=["0"])["sentence.auroc.pooled"]
    assert (each.a, each.b, each.difference) == (1, 0, 1)
    assert (each.low, each.high, each.p_a_better) == (None,) * 3
    assert each.reason.startswith("fewer than two images")


def test_sentences_that_only_one_scored_are_left_out_for_both_and_counted(caplog):
    a = [predict(str(n), str(n), ("incorrect", 0.75), ("correct", 0.5)) for n in range(4)]
    b = [replace(each, sentences=(each.sentences[0], SentenceScore(None, "too long"))) for each in a[:2]] + a[2:]
    with caplog.at_level(logging.WARNING, logger="halspan"):
        found = compare(a, b, images=images_of(a), n_resamples=50)
    assert found["sentence.brier"].a == found["sentence.brier"].b == (4 * 0.25**2 + 2 * 0.5**2) / 6
    assert "left out 2 sentences that only one of the two detectors scored" in caplog.text


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ([], "1 captions against 0"),
        ([predict("1", "0", ("correct", 0.5))], "caption '0' against '1'"),
        ([predict("0", "0", ("incorrect", 0.5))], "caption '0': sentences differs"),
        ([predict("0", "0", ("correct", 0.5), generator="b")], "caption '0': generator differs"),
    ],
)
def test_only_the_same_captions_can_be_compared(other, problem):
    with pytest.raises(DataError, match=problem):
        compare([predict("0", "0", ("correct", 0.5))], other, images=["0"])


def test_the_image_of_a_compared_caption_may_lie_somewhere_else():
    one = predict("0", "0", ("correct", 0.5))
    moved = replace(one, caption=replace(one.caption, image="elsewhere/0.png"))
    assert compare([one], [moved], images=["0"])["sentence.brier"].difference == 0
