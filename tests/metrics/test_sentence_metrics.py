import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from halspan.metrics.sentence import auroc, average_precision, brier, ece


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def labels(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.bool_)


def test_auroc_is_the_share_of_pairs_in_the_right_order_with_ties_at_half():
    # Pairs (incorrect, correct): 0.9 > 0.5, 0.9 > 0.1, 0.5 = 0.5, 0.5 > 0.1: 3.5 of 4.
    assert auroc(scores(0.9, 0.5, 0.5, 0.1), labels(1, 1, 0, 0)) == 3.5 / 4


def test_auroc_of_equal_scores_is_a_half():
    assert auroc(scores(0.3, 0.3, 0.3), labels(1, 0, 0)) == 0.5


@pytest.mark.parametrize("metric", [auroc, average_precision])
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


@pytest.mark.parametrize("metric", [brier, ece])
def test_calibration_figures_need_a_sentence(metric):
    assert metric(scores(), labels()) is None


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


@given(samples, st.integers(1, 5))
def test_ece_lies_between_0_and_1_and_no_order_changes_it(sample, n_bins):
    p, y = scores(*[pair[0] for pair in sample]), labels(*[pair[1] for pair in sample])
    value = ece(p, y, n_bins=n_bins)
    assert 0 <= value <= 1
    assert ece(p[::-1], y[::-1], n_bins=n_bins) == pytest.approx(value, abs=1e-12)
