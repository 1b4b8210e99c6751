"""Scores by properties of a sentence: position, length, direction, type, and annotator agreement.

A slice pools the generators. It holds how many sentences of either class it has, their mean p_incorrect, and the AUROC;
None where there is no such sentence, or one class only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from halspan.core.captions import Caption, Prediction, Sentence
from halspan.metrics.agreement import noise_ceiling
from halspan.metrics.judged import JudgedSentences, judged_sentences
from halspan.metrics.sentence import auroc

LAST_POSITION = 7  # this position and all later ones
FEWEST_WORDS = (1, 6, 11, 16, 21, 31)  # fewest words in each bin of lengths

Mask = Bool[ndarray, "sentence"]


def slices(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Slice the judged sentences by every property, in the shape of `metrics.json`; empty slices are left out."""
    judged = judged_sentences(predictions)
    captions = [predictions[index].caption for index in judged.caption]
    pairs = [
        (caption, caption.sentences[position]) for caption, position in zip(captions, judged.position, strict=True)
    ]
    return {
        "position": _by_position(judged),
        "length": _by_length(judged, pairs),
        "direction": _by_direction(judged, captions),
        "type": _by_type(judged, pairs),
        "agreement": _by_agreement(judged, [sentence for _, sentence in pairs]),
    }


def _slice(judged: JudgedSentences, mask: Mask) -> dict[str, Any]:
    p, incorrect = judged.p_incorrect[mask], judged.incorrect[mask]
    classes = {"correct": p[~incorrect], "incorrect": p[incorrect]}
    return {
        "n": {name: len(scores) for name, scores in classes.items()},
        "mean": {name: float(scores.mean()) if len(scores) else None for name, scores in classes.items()},
        "auroc": auroc(judged.rank[mask], incorrect),
    }


def _by_position(judged: JudgedSentences) -> list[dict[str, Any]]:
    position = np.minimum(judged.position, LAST_POSITION)
    found = []
    for value in np.unique(position).tolist():
        later = {"and_later": True} if value == LAST_POSITION else {}
        found.append({"position": value, **later, **_slice(judged, position == value)})
    return found


def _by_length(judged: JudgedSentences, pairs: Sequence[tuple[Caption, Sentence]]) -> list[dict[str, Any]]:
    """Slice by the number of words, which whitespace separates."""
    n_words = np.array([len(caption.text[sentence.start : sentence.end].split()) for caption, sentence in pairs])
    bins = np.searchsorted(FEWEST_WORDS[1:], n_words, side="right")
    most_words = [*(fewest - 1 for fewest in FEWEST_WORDS[1:]), None]
    return [
        {"min_words": FEWEST_WORDS[index], "max_words": most_words[index], **_slice(judged, bins == index)}
        for index in np.unique(bins).tolist()
    ]


def _by_direction(judged: JudgedSentences, captions: Sequence[Caption]) -> dict[str, Any]:
    direction = np.array([caption.direction for caption in captions], dtype=np.str_)
    return {name: _slice(judged, direction == name) for name in np.unique(direction).tolist()}


def _by_type(judged: JudgedSentences, pairs: Sequence[tuple[Caption, Sentence]]) -> dict[str, Any]:
    """Compare the incorrect sentences of each type, their own or that of a span in them, with all correct ones."""
    types: dict[str, Mask] = {}
    for index in np.flatnonzero(judged.incorrect).tolist():
        caption, sentence = pairs[index]
        for name in {*sentence.types, *(span.type for span in caption.spans_in(sentence) if span.type is not None)}:
            types.setdefault(name, ~judged.incorrect)[index] = True
    return {name: _slice(judged, types[name]) for name in sorted(types)}


def _by_agreement(judged: JudgedSentences, sentences: Sequence[Sentence]) -> dict[str, Any]:
    """Slice by whether all of at least two votes for correct or incorrect agree."""
    votes = [(0, 0) if each.votes is None else (each.votes.incorrect, each.votes.correct) for each in sentences]
    n_incorrect, n_correct = np.array(votes, dtype=np.int64).reshape(-1, 2).T
    voted = n_incorrect + n_correct >= 2
    unanimous = (n_incorrect == 0) | (n_correct == 0)
    return {
        "unanimous": _slice(judged, voted & unanimous),
        "disputed": _slice(judged, voted & ~unanimous),
        "ceiling": noise_ceiling(n_incorrect, n_correct),
        "n_voted": int(np.count_nonzero(voted)),
    }
