import numpy as np
import pytest

from halspan.metrics.agreement import MIN_SENTENCES, noise_ceiling
from halspan.metrics.sentence import auroc


def votes(*counts: int) -> np.ndarray:
    return np.array(counts, dtype=np.int64)


def draw(a: float, b: float, sizes: list[int], *, n_sentences: int = 40_000) -> tuple[np.ndarray, ...]:
    """Let annotators vote on sentences whose probability of being called incorrect is known."""
    source = np.random.default_rng(0)
    p = source.beta(a, b, n_sentences)
    n_votes = source.choice(sizes, n_sentences)
    n_incorrect = source.binomial(n_votes, p)
    return p, n_incorrect, n_votes - n_incorrect


@pytest.mark.parametrize(
    ("a", "b", "sizes"),
    [
        (2.0, 2.0, [3]),
        (0.5, 2.5, [3]),
        (0.5, 2.5, [3, 5]),
        (0.1, 0.6, [3]),
        (0.05, 0.05, [3]),
        (6.0, 20.0, [5]),
        (0.5, 1.0, [2, 3, 4]),  # tied votes are left out
        (1.0, 3.0, [1, 3]),  # a single vote is no agreement
        (2.0, 3.0, [200]),
    ],
)
def test_the_ceiling_is_what_a_detector_that_knows_the_probabilities_reaches(a, b, sizes):
    p, n_incorrect, n_correct = draw(a, b, sizes)
    decided = (n_incorrect != n_correct) & (n_incorrect + n_correct >= 2)
    oracle = auroc(p[decided], (n_incorrect > n_correct)[decided])
    assert noise_ceiling(n_incorrect, n_correct) == pytest.approx(oracle, abs=0.01)


def test_annotators_who_always_agree_set_no_ceiling():
    n_incorrect = votes(*[3] * 10, *[0] * 30)
    n_correct = votes(*[0] * 10, *[2] * 30)
    assert noise_ceiling(n_incorrect, n_correct) == 1


def test_annotators_who_agree_less_set_a_lower_ceiling():
    agreeing, disputing = (draw(a, 3 * a, [3]) for a in (0.1, 1.0))
    assert noise_ceiling(*agreeing[1:]) > noise_ceiling(*disputing[1:]) + 0.05


def test_few_voted_sentences_have_no_ceiling():
    n_incorrect = votes(*[2, 0] * 50)[: MIN_SENTENCES - 1]
    n_correct = 2 - n_incorrect
    assert noise_ceiling(n_incorrect, n_correct) is None
    # sentences with one vote do not make it more
    assert noise_ceiling(np.append(n_incorrect, [1] * 50), np.append(n_correct, [0] * 50)) is None
    assert noise_ceiling(np.append(n_incorrect, 0), np.append(n_correct, 2)) == 1


@pytest.mark.parametrize("n_incorrect", [[0] * 40, [3] * 40], ids=["all correct", "all incorrect"])
def test_one_class_has_no_ceiling(n_incorrect):
    assert noise_ceiling(votes(*n_incorrect), 3 - votes(*n_incorrect)) is None


def test_votes_that_differ_no_more_than_by_chance_have_no_ceiling():
    # Two votes a sentence, one for each side, always: pairs agree less often than coins would.
    assert noise_ceiling(votes(*[1] * 40), votes(*[1] * 40)) is None


def test_no_order_of_the_sentences_changes_the_ceiling():
    _, n_incorrect, n_correct = draw(0.5, 1.5, [2, 3, 5], n_sentences=500)
    value = noise_ceiling(n_incorrect, n_correct)
    assert noise_ceiling(n_incorrect[::-1], n_correct[::-1]) == pytest.approx(value)
