"""Coverage of the annotated characters, or tokens, by predicted spans.

Characters are compared as sets, so overlapping, nested and duplicate spans count a character once. Left out on both
sides are the characters of sentences that are unknown or unlabeled, and of incorrect sentences without a span.
Axes: `character`, `token`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from halspan.core.alignment import Ranged
from halspan.core.captions import Caption, PredictedSpan, Sentence

Characters = Bool[ndarray, "character"]
Tokens = Bool[ndarray, "token"]


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts behind precision and recall, of characters or of spans.

    Attributes:
        shared: Number that is predicted and annotated; a partial match of spans counts half.
        predicted: Number that is predicted.
        gold: Number that is annotated.

    >>> counts = Counts(shared=2, predicted=4, gold=2)
    >>> counts.precision, counts.recall, round(counts.f1, 2)
    (0.5, 1.0, 0.67)
    """

    shared: int | float = 0
    predicted: int = 0
    gold: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.shared + other.shared, self.predicted + other.predicted, self.gold + other.gold)

    @property
    def precision(self) -> float | None:
        """Return the share of the predicted that is annotated; None if nothing is predicted."""
        return self.shared / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Return the share of the annotated that is predicted; None if nothing is annotated."""
        return self.shared / self.gold if self.gold else None

    @property
    def f1(self) -> float | None:
        """Return the harmonic mean of precision and recall, 0 if nothing is predicted; None if nothing is annotated."""
        return 2 * self.shared / (self.predicted + self.gold) if self.gold else None


def has_no_span(caption: Caption, sentence: Sentence) -> bool:
    """Return whether a sentence is incorrect and no span touches it."""
    return sentence.label == "incorrect" and not caption.spans_in(sentence)


def judged_characters(caption: Caption) -> Characters:
    """Mark the characters of a caption that span figures count."""
    judged = np.ones(len(caption.text), dtype=np.bool_)
    for sentence in caption.sentences:
        if sentence.label in (None, "unknown") or has_no_span(caption, sentence):
            judged[sentence.start : sentence.end] = False
    return judged


def count_characters(pairs: Iterable[tuple[Caption, Sequence[Ranged]]]) -> Counts:
    """Count the characters of captions that are predicted, annotated, or both.

    Args:
        pairs: Each caption with the spans predicted for it.

    >>> from halspan.core.captions import Span
    >>> wrong = Sentence(0, 10, "incorrect")
    >>> caption = Caption("1", "a.png", "sd", "text_to_image", "A red cat.", (wrong,), (Span(2, 5),))
    >>> count_characters([(caption, [Span(2, 9)])])
    Counts(shared=3, predicted=7, gold=3)
    """
    total = Counts()
    for caption, spans in pairs:
        if spans or caption.spans:
            judged = judged_characters(caption)
            total += _count(cover(caption.spans, judged), cover(spans, judged))
    return total


def cover(spans: Iterable[Ranged], judged: Characters) -> Characters:
    """Mark the judged characters in the union of the spans."""
    covered = np.zeros_like(judged)
    for span in spans:
        covered[span.start : span.end] = True
    covered &= judged
    return covered


def count_typed_characters(caption: Caption, predicted: Sequence[PredictedSpan]) -> Counts:
    """Count pairs of character and type; annotated characters without a type are left out on both sides."""
    return sum(count_typed_characters_by_type(caption, predicted).values(), Counts())


def count_typed_characters_by_type(caption: Caption, predicted: Sequence[PredictedSpan]) -> dict[str | None, Counts]:
    """Count the characters of each annotated or predicted type; those annotated without a type are left out.

    A predicted span without a type counts as the type None, which is never annotated.
    """
    typed = [span for span in caption.spans if span.type is not None]
    judged = judged_characters(caption)
    judged &= cover(typed, judged) | ~cover(caption.spans, judged)
    counts = {}
    for name in {span.type for span in typed} | {span.type for span in predicted}:
        gold_of = cover([span for span in typed if span.type == name], judged)
        predicted_of = cover([span for span in predicted if span.type == name], judged)
        counts[name] = _count(gold_of, predicted_of)
    return counts


def count_by_type(caption: Caption, predicted: Sequence[PredictedSpan]) -> dict[str, Counts]:
    """Count, for each annotated type, its characters and those of them predicted as any type.

    Characters predicted elsewhere belong to no type, so only the recall of these counts is meaningful.
    """
    judged = judged_characters(caption)
    found = cover(predicted, judged)
    counts = {}
    for name in sorted({span.type for span in caption.spans if span.type is not None}):
        gold_of = cover([span for span in caption.spans if span.type == name], judged)
        n_shared = int(np.count_nonzero(found & gold_of))
        if n_gold := int(np.count_nonzero(gold_of)):
            counts[name] = Counts(n_shared, n_shared, n_gold)
    return counts


def iou(caption: Caption, predicted: Sequence[PredictedSpan]) -> float:
    """Return the intersection over union of predicted and annotated characters; 1 if there are neither.

    >>> from halspan.core.captions import Span
    >>> wrong = Sentence(0, 10, "incorrect")
    >>> caption = Caption("1", "a.png", "sd", "text_to_image", "A red cat.", (wrong,), (Span(2, 4),))
    >>> iou(caption, [PredictedSpan(2, 6, "Object", 0.9)])
    0.5
    """
    judged = judged_characters(caption)
    found, gold = cover(predicted, judged), cover(caption.spans, judged)
    n_union = np.count_nonzero(found | gold)
    return float(np.count_nonzero(found & gold) / n_union) if n_union else 1.0


def count_tokens(*, gold: Tokens, predicted: Tokens, known: Tokens) -> Counts:
    """Count tokens that are predicted, annotated, or both.

    Tokens differ between tokenizers, so these figures compare only detectors with the same tokenizer.

    Args:
        gold: Whether each token is annotated.
        predicted: Whether each token is called hallucinated.
        known: Whether each token counts; the annotation of the others is not known.

    >>> gold, predicted = np.array([True, True, False]), np.array([True, False, True])
    >>> count_tokens(gold=gold, predicted=predicted, known=np.array([True, True, False]))
    Counts(shared=1, predicted=1, gold=2)
    """
    return _count(gold & known, predicted & known)


def _count(gold: Bool[ndarray, "*any"], predicted: Bool[ndarray, "*any"]) -> Counts:
    n_shared, n_predicted, n_gold = (int(np.count_nonzero(each)) for each in (gold & predicted, predicted, gold))
    return Counts(n_shared, n_predicted, n_gold)
