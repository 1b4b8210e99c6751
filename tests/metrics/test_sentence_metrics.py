from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
)
from sklearn.metrics import roc_curve as sklearn_roc_curve

from halspan.core.errors import DataError
from halspan.metrics.sentence import (
    accuracy,
    auroc,
    average_precision,
    best_f1_threshold,
    brier,
    ece,
    f1,
    macro,
    recall_at_fpr,
    reliability,
    roc_curve,
)


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def labels(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.bool_)


def test_auroc_is_the_share_of_pairs_in_the_right_order_with_ties_at_half():
    # Pairs (incorrect, correct): 0.9 > 0.5, 0.9 > 0.1, 0.5 = 0.5, 0.5 > 0.1: 3.5 of 4.
    assert auroc(scores(0.9, 0.5, 0.5, 0.1), labels(1, 1, 0, 0)) == 3.5 / 4


def test_auroc_of_equal_scores_is_a_half():
    assert auroc(scores(0.3, 0.3, 0.3), labels(1, 0, 0)) == 0.5


@pytest.mark.parametrize("metric", [auroc, average_precision, roc_curve, recall_at_fpr, best_f1_threshold])
@pytest.mark.parametrize("one_class", [labels(1, 1), labels(0, 0), labels()])
def test_ranking_figures_need_both_classes(metric, one_class):
    assert metric(scores(*[0.5] * len(one_class)), one_class) is None


def test_average_precision_weighs_precision_by_the_recall_gained():
    # Level 0.9: precision 1, recall 0 -> 1/2. Level 0.5, both at once: precision 2/3, recall 1/2 -> 1.
    assert average_precision(scores(0.9, 0.5, 0.5, 0.1), labels(1, 1, 0, 0)) == pytest.approx(1 / 2 + 2 / 3 / 2)


def test_brier_is_the_mean_squared_difference():
    assert brier(scores(0.75, 0.5), labels(1, 0)) == (0.25**2 + 0.5**2) / 2


def test_ece_compares_means_in_bins_of_equally_many_sentences():
    # Bins (0.1, 0.2) and (0.6, 0.9): means 0.15 and 0.75; shares of incorrect 0.5 and 1.
    assert ece(scores(0.1, 0.9, 0.6, 0.2), labels(0, 1, 1, 1), n_bins=2) == pytest.approx((0.35 + 0.25) / 2)


def test_ece_keeps_equal_probabilities_in_one_bin_whatever_their_order():
    # All 0.5, half of them incorrect: perfectly calibrated, even if the incorrect ones come first.
    assert ece(scores(0.5, 0.5, 0.5, 0.5), labels(1, 1, 0, 0), n_bins=2) == 0


def at_half(metric):
    return partial(metric, threshold=0.5)


@pytest.mark.parametrize("metric", [brier, ece, at_half(accuracy), at_half(f1)])
def test_figures_of_each_sentence_need_one(metric):
    assert metric(scores(), labels()) is None


def test_the_roc_curve_has_a_point_for_each_distinct_score_behind_the_origin():
    # From 0.9: 1 of 2 incorrect; from 0.5: 2 of 2, and 1 of 2 correct; from 0.1: everything.
    curve = roc_curve(scores(0.9, 0.5, 0.5, 0.1), labels(1, 1, 0, 0))
    assert curve.threshold.tolist() == [np.inf, 0.9, 0.5, 0.1]
    assert curve.tpr.tolist() == [0, 0.5, 1, 1]
    assert curve.fpr.tolist() == [0, 0, 0.5, 1]


def test_recall_at_a_false_positive_rate_takes_the_best_threshold_that_keeps_to_it():
    # Of ten correct sentences one scores 0.8: a rate of exactly 0.1, with 2 of 4 incorrect ones as high; the next
    # incorrect one shares its score with another correct one.
    p = scores(0.9, 0.8, 0.6, 0.2, 0.8, 0.6, *[0.1] * 8)
    y = labels(1, 1, 1, 1, *[0] * 10)
    assert recall_at_fpr(p, y, fpr=0.10) == 2 / 4
    assert recall_at_fpr(p, y, fpr=0.09) == 1 / 4
    assert recall_at_fpr(p, y, fpr=0.20) == 4 / 4
    assert recall_at_fpr(1 - p, y, fpr=0.10) == 0


def test_a_sentence_at_the_threshold_is_called_incorrect():
    p, y = scores(0.5, 0.4, 0.5, 0.6), labels(1, 1, 0, 1)
    # Called: 1 right, 2 wrong, 3 right of the incorrect ones; one incorrect is missed.
    assert accuracy(p, y, threshold=0.5) == 2 / 4
    assert f1(p, y, threshold=0.5) == 2 * 2 / (3 + 3)


def test_f1_is_0_where_nothing_is_called_incorrect_and_none_where_nothing_is():
    assert f1(scores(0.1, 0.2), labels(1, 0), threshold=0.5) == 0
    assert f1(scores(0.1, 0.9), labels(0, 0), threshold=0.5) is None


def test_the_best_threshold_lies_halfway_between_scores():
    # From 0.9: F1 2/3; from 0.6: 1; from 0.2: 4/5.
    assert best_f1_threshold(scores(0.9, 0.6, 0.2), labels(1, 1, 0)) == pytest.approx(0.4)


def test_of_equally_good_thresholds_the_one_nearest_to_a_half_is_best():
    # Below 0.9 F1 is 2/3; below 0.7 it is 1/2, 2/5 and, with the other incorrect one, 2/3: at 0.1 itself.
    assert best_f1_threshold(scores(0.9, 0.7, 0.1, 0.7), labels(1, 0, 1, 0)) == pytest.approx(0.8)


def test_the_best_threshold_can_be_to_call_every_sentence_incorrect():
    assert best_f1_threshold(scores(0.3, 0.1, 0.2), labels(1, 1, 0)) == 0.1


def test_neighboring_floats_are_told_apart_by_the_best_threshold():
    lower = 0.5
    upper = np.nextafter(lower, 1)
    p, y = scores(upper, lower), labels(1, 0)
    assert f1(p, y, threshold=best_f1_threshold(p, y)) == 1


def test_reliability_bins_hold_equally_many_sentences_the_lowest_first():
    bins = reliability(scores(0.1, 0.9, 0.6, 0.2), labels(0, 1, 1, 1), n_bins=2)
    assert bins.mean_probability == pytest.approx([0.15, 0.75])
    assert bins.share_incorrect.tolist() == [0.5, 1]
    assert bins.count.tolist() == [2, 2]


def test_reliability_of_nothing_has_no_bins():
    assert len(reliability(scores(), labels()).count) == 0


def test_reliability_is_that_of_scikit_learn_on_distinct_scores():
    source = np.random.default_rng(0)
    p, y = source.random(300), source.random(300) < 0.3
    bins = reliability(p, y, n_bins=15)
    share, mean = calibration_curve(y, p, n_bins=15, strategy="quantile")
    assert bins.count.tolist() == [20] * 15
    assert bins.mean_probability == pytest.approx(mean)
    assert bins.share_incorrect == pytest.approx(share)


def test_the_macro_figure_leaves_out_what_is_undefined():
    assert macro([0.5, None, 1.0]) == 0.75
    assert macro([None]) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "metric",
    [
        auroc,
        average_precision,
        roc_curve,
        recall_at_fpr,
        brier,
        ece,
        reliability,
        at_half(accuracy),
        at_half(f1),
        best_f1_threshold,
    ],
)
def test_a_score_that_is_not_finite_is_an_error_and_no_figure(metric, value):
    with pytest.raises(DataError, match=r"at sentence 1, and 1 of 3 are not finite"):
        metric(scores(0.5, value, 0.2), labels(1, 0, 0))


def test_a_score_that_is_not_finite_is_an_error_even_in_one_class():
    with pytest.raises(DataError, match="not finite"):
        auroc(scores(np.nan), labels(1))


# Few levels, so that ties are common.
samples = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40)


@given(samples)
def test_figures_equal_those_of_scikit_learn_with_ties(sample):
    p, y = scores(*[pair[0] for pair in sample]), labels(*[pair[1] for pair in sample])
    assert brier(p, y) == pytest.approx(np.mean((p - y) ** 2))
    assume(y.any() and not y.all())
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p))
    assert auroc(p, y) == pytest.approx(roc_auc_score(y, p))
    assert average_precision(p, y) == pytest.approx(average_precision_score(y, p))
    curve, (fpr, tpr, threshold) = roc_curve(p, y), sklearn_roc_curve(y, p, drop_intermediate=False)
    assert curve.fpr == pytest.approx(fpr)
    assert curve.tpr == pytest.approx(tpr)
    assert curve.threshold.tolist() == threshold.tolist()
    assert recall_at_fpr(p, y, fpr=0.25) == pytest.approx(tpr[fpr <= 0.25].max())


@given(samples, st.sampled_from([0.1, 0.3, 0.5, 0.9]))
def test_decisions_equal_those_of_scikit_learn(sample, threshold):
    p, y = scores(*[pair[0] for pair in sample]), labels(*[pair[1] for pair in sample])
    assert accuracy(p, y, threshold=threshold) == pytest.approx(accuracy_score(y, p >= threshold))
    assume(y.any())
    assert f1(p, y, threshold=threshold) == pytest.approx(f1_score(y, p >= threshold))


@given(samples)
def test_no_threshold_has_a_higher_f1_than_the_best_and_no_equal_one_is_nearer_to_a_half(sample):
    p, y = scores(*[pair[0] for pair in sample]), labels(*[pair[1] for pair in sample])
    assume(y.any() and not y.all())
    levels = np.unique(p)
    candidates = [levels[0], *(levels[1:] + levels[:-1]) / 2]
    figures = [f1_score(y, p >= threshold) for threshold in candidates]
    best = [each for each, figure in zip(candidates, figures, strict=True) if figure >= max(figures) - 1e-12]
    found = best_f1_threshold(p, y)
    assert min(abs(found - each) for each in best) < 1e-12
    assert abs(found - 0.5) == pytest.approx(min(abs(each - 0.5) for each in best))


@given(samples, st.integers(1, 5))
def test_ece_lies_between_0_and_1_and_no_order_changes_it(sample, n_bins):
    p, y = scores(*[pair[0] for pair in sample]), labels(*[pair[1] for pair in sample])
    value = ece(p, y, n_bins=n_bins)
    assert 0 <= value <= 1
    assert ece(p[::-1], y[::-1], n_bins=n_bins) == pytest.approx(value, abs=1e-12)
