"""The noise ceiling: the best score that a detector can reach when annotators disagree.

Axis: `sentence`.
"""

import math

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

VoteCounts = Int[ndarray, "sentence"]

MIN_SENTENCES = 20
_N_POINTS = 4001


def noise_ceiling(n_incorrect: VoteCounts, n_correct: VoteCounts) -> float | None:
    """Estimate the AUROC of a detector that knows each sentence's probability p of rejection by an annotator.

    A label is the majority of the available votes. The label of a disputed sentence is therefore partly chance, and
    even a detector that knows p is sometimes wrong. Over sentences, p follows a Beta distribution, fitted by its
    moments: the share of votes for incorrect is an unbiased estimate of p, and the share of pairs of votes that are
        both for
    incorrect is one of p squared. Each sentence has the same weight, however many votes it has.

    Args:
        n_incorrect: Votes for incorrect.
        n_correct: Votes for correct; unknown votes are in neither.

    Returns:
        The AUROC of p, by quadrature, where incorrect sentences weigh P(majority incorrect | p) and correct ones
        P(majority correct | p), and tied votes are left out. 1 if no two votes disagree. None with fewer than
        `MIN_SENTENCES` sentences that have two votes or more; if they are unanimous for one class; or if votes vary no
        more than by chance, so that there is no spread of p to fit.

    >>> noise_ceiling(np.array([0, 3] * 50), np.array([3, 0] * 50))
    1.0
    """
    n_votes = n_incorrect + n_correct
    voted = n_votes >= 2
    incorrect, n = n_incorrect[voted], n_votes[voted]
    if len(n) < MIN_SENTENCES:
        return None
    mean = float(np.mean(incorrect / n))
    variance = float(np.mean(incorrect * (incorrect - 1) / (n * (n - 1)))) - mean**2
    largest = mean * (1 - mean)  # reached where p is 0 or 1
    if largest == 0 or variance <= 0:
        return None
    if np.all((incorrect == 0) | (incorrect == n)):
        return 1.0
    concentration = largest / variance - 1
    return _oracle_auroc(mean * concentration, (1 - mean) * concentration, n)


def _oracle_auroc(a: float, b: float, n_votes: VoteCounts) -> float:
    """Return the AUROC of p ~ Beta(a, b) against the majority of a given number of votes, by quadrature.

    On the scale x = logit p the density is p^a (1 - p)^b, which dies off exponentially on both sides; x = sinh t brings
    the far tails of small a and b within reach of evenly spaced points.
    """
    reach = np.arcsinh(40 / min(a, b))
    t = np.linspace(-reach, reach, _N_POINTS)
    log_p, log_q = -np.logaddexp(0, -np.sinh(t)), -np.logaddexp(0, np.sinh(t))
    density = np.exp(a * log_p + b * log_q + np.log(np.cosh(t)))
    sizes, counts = np.unique(n_votes, return_counts=True)
    incorrect = density * sum(count * _p_majority(int(n), log_p, log_q) for n, count in zip(sizes, counts, strict=True))
    correct = density * sum(count * _p_majority(int(n), log_q, log_p) for n, count in zip(sizes, counts, strict=True))
    below = correct.cumsum() - correct / 2
    return float(incorrect @ below / (incorrect.sum() * correct.sum()))


def _p_majority(n: int, log_p: Float[ndarray, "point"], log_q: Float[ndarray, "point"]) -> Float[ndarray, "point"]:
    """Return the probability that more than half of n votes are for one label, if each is with probability p."""
    wins = np.arange(n // 2 + 1, n + 1)[:, None]
    log_ways = np.array([math.log(math.comb(n, int(k))) for k in wins[:, 0]])[:, None]
    p_majority: ndarray = np.exp(log_ways + wins * log_p + (n - wins) * log_q).sum(axis=0)
    return p_majority
