"""Ensembles: the calibrated sentence and character probabilities of several detectors, averaged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from halspan.core.errors import DataError
from halspan.inference.scores import CaptionScores
from halspan.inference.tuning import Tuned, logits_of, sigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The scores of one detector of an ensemble.

    Attributes:
        name: Name of the detector.
        scores: Scores of each caption; all members have the same captions, in any order.
        tuned: Its temperatures.
        taxonomy: Its types.
    """

    name: str
    scores: Sequence[CaptionScores]
    tuned: Tuned
    taxonomy: Sequence[str]


def average(members: Sequence[Member], taxonomy: Sequence[str]) -> Iterator[CaptionScores]:
    """Average the scores of the members, in the order of the first member's captions.

    A sentence's score is the logit of the mean of the calibrated probabilities. A sentence that any member did not
    score is unscored. Tokenizers may differ: the text is cut where any member's token begins or ends, each piece counts
    as a token, and its probability is the mean over the members. A piece that no token of a member covers has
    probability 0 in that member. If several of its tokens share a piece (the bytes of one character), the highest
    probability counts.

    Args:
        members: At least one member.
        taxonomy: Types of the ensemble; types that a member does not know have probability 0 in it.

    Raises:
        DataError: A member has not scored a caption of the first one.
    """
    by_id = [{item.caption.id: item for item in member.scores} for member in members]
    for first in members[0].scores:
        id_ = first.caption.id
        for member, scores in zip(members, by_id, strict=True):
            if id_ not in scores:
                raise DataError(f"ensemble: {member.name} has not scored caption {id_!r}, which {members[0].name} has")
        yield _average_caption([scores[id_] for scores in by_id], members, taxonomy)


def _average_caption(
    items: Sequence[CaptionScores], members: Sequence[Member], taxonomy: Sequence[str]
) -> CaptionScores:
    caption = items[0].caption
    pieces = _pieces([item.offsets for item in items], len(caption.text))
    p_token = np.zeros(len(pieces))
    mass = np.zeros((len(pieces), len(taxonomy)))
    for item, member in zip(items, members, strict=True):
        held = _token_of_piece(item, pieces)
        # index -1 selects an extra token without probability at the end, even if there are no tokens
        p = np.append(sigmoid(item.token_logit / member.tuned.token_temperature), 0.0)[held]
        p_type = np.append(item.p_type, np.zeros((1, item.p_type.shape[1])), axis=0)[held]
        columns = [taxonomy.index(name) for name in member.taxonomy]
        p_token += p / len(members)
        mass[:, columns] += p[:, None] * p_type / len(members)
    unscored = tuple(
        _first_reason(reasons, members) for reasons in zip(*(item.unscored for item in items), strict=True)
    )
    return CaptionScores(
        caption=caption,
        offsets=pieces,
        token_logit=logits_of(p_token),
        p_type=(mass / np.maximum(mass.sum(axis=1, keepdims=True), np.finfo(float).tiny)).astype(np.float32),
        sentence_logit=tuple(
            None if reason is not None else _mean_logit([item.sentence_logit[number] for item in items], members)
            for number, reason in enumerate(unscored)
        ),
        unscored=unscored,
    )


def _pieces(offsets: Sequence[Int[ndarray, "token 2"]], n_characters: int) -> Int[ndarray, "piece 2"]:
    """Cut the text where a token of any member begins or ends."""
    cuts = np.unique(np.concatenate([np.array([0, n_characters]), *(item.ravel() for item in offsets)]))
    return np.stack([cuts[:-1], cuts[1:]], axis=1)


def _token_of_piece(item: CaptionScores, pieces: Int[ndarray, "piece 2"]) -> Int[ndarray, "piece"]:
    """Return the token that covers each piece; of several, the one with the highest score; -1 for none."""
    token = np.full(len(pieces), -1)
    for index in np.argsort(item.token_logit, kind="stable"):
        start, end = item.offsets[index]
        token[(pieces[:, 0] >= start) & (pieces[:, 1] <= end)] = index
    return token


def _mean_logit(logits: Sequence[float | None], members: Sequence[Member]) -> float:
    """Return the logit of the mean probability, also where all of them round to 0 or 1."""
    pairs = zip(logits, members, strict=True)
    calibrated = np.array([logit / member.tuned.temperature for logit, member in pairs if logit is not None])
    incorrect, correct = (-np.logaddexp(0, sign * calibrated) for sign in (-1, 1))
    return float(np.logaddexp.reduce(incorrect) - np.logaddexp.reduce(correct))


def _first_reason(reasons: Sequence[str | None], members: Sequence[Member]) -> str | None:
    return next((f"{member.name}: {reason}" for member, reason in zip(members, reasons, strict=True) if reason), None)
