"""Several detectors as one: their calibrated probabilities of sentences and characters, averaged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from halspan.core.errors import DataError
from halspan.inference.scoring import CaptionScores
from halspan.inference.tuning import Tuned, logits_of, sigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What one detector of an ensemble says.

    Attributes:
        name: of the detector.
        scores: of each caption; all members have the same captions, in any order.
        tuned: its temperatures.
        taxonomy: its types.
    """

    name: str
    scores: Sequence[CaptionScores]
    tuned: Tuned
    taxonomy: Sequence[str]


def average(members: Sequence[Member], taxonomy: Sequence[str]) -> Iterator[CaptionScores]:
    """Average what the members say, in the order of the first one's captions.

    A sentence's score is the logit of the mean of the calibrated probabilities; a sentence that a member did not score
    is unscored. Tokenizers may differ: the text is cut where any member's token begins or ends, each piece counts as a
    token, and has the mean of its probabilities in the members. A member whose tokens leave a piece out gives it 0;
    where several of its tokens share a piece (the bytes of one character), it gives their highest.

    Args:
        members: at least one.
        taxonomy: types of the ensemble; a member gives those it does not know probability 0.

    Raises:
        DataError: a member has not scored a caption of the first one.
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
        # behind the last token stands one without probability: -1 takes it, also where there is no token at all
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
    """Cut the text wherever a token of any member begins or ends."""
    cuts = np.unique(np.concatenate([np.array([0, n_characters]), *(item.ravel() for item in offsets)]))
    return np.stack([cuts[:-1], cuts[1:]], axis=1)


def _token_of_piece(item: CaptionScores, pieces: Int[ndarray, "piece 2"]) -> Int[ndarray, "piece"]:
    """Find the token that holds each piece, of several the one with the highest score; -1 for none."""
    token = np.full(len(pieces), -1)
    for index in np.argsort(item.token_logit, kind="stable"):
        start, end = item.offsets[index]
        token[(pieces[:, 0] >= start) & (pieces[:, 1] <= end)] = index
    return token


def _mean_logit(logits: Sequence[float | None], members: Sequence[Member]) -> float:
    values: list[Float[ndarray, ""]] = [
        sigmoid(np.asarray(value) / member.tuned.temperature) for value, member in zip(logits, members, strict=True)
    ]
    return float(logits_of(np.mean(values)))


def _first_reason(reasons: Sequence[str | None], members: Sequence[Member]) -> str | None:
    return next((f"{member.name}: {reason}" for member, reason in zip(members, reasons, strict=True) if reason), None)
