"""How well predicted spans match the annotated ones.

Characters are compared as sets, so overlapping, nested and duplicate spans count a character once. Left out on both
sides are the characters of sentences that nobody judged (unknown or unlabelled), and of incorrect sentences of which
nobody said where they are wrong.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from halspan.core.alignment import Ranged
from halspan.core.captions import Caption, PredictedSpan, Sentence, Span

Characters = Bool[ndarray, "character"]
TypedRange = tuple[int, int, str | None]


@dataclass(frozen=True, slots=True)
class Counts:
    """What precision and recall are made of: characters, or spans.

    Attributes:
        shared: predicted and annotated; a partial match of spans counts half.
        predicted: all predicted.
        gold: all annotated.
    """

    shared: int | float = 0
    predicted: int = 0
    gold: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.shared + other.shared, self.predicted + other.predicted, self.gold + other.gold)

    @property
    def precision(self) -> float | None:
        """Share of the predicted; None if nothing is predicted."""
        return self.shared / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of the annotated; None if nothing is annotated."""
        return self.shared / self.gold if self.gold else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, 0 if nothing is predicted; None if nothing is annotated."""
        return 2 * self.shared / (self.predicted + self.gold) if self.gold else None


def has_no_span(caption: Caption, sentence: Sentence) -> bool:
    """Say whether a sentence is incorrect and no span touches it."""
    return sentence.label == "incorrect" and not caption.spans_in(sentence)


def judged_characters(caption: Caption) -> Characters:
    """Mark the characters of a caption that span figures count."""
    judged = np.ones(len(caption.text), dtype=np.bool_)
    for sentence in caption.sentences:
        if sentence.label in (None, "unknown") or has_no_span(caption, sentence):
            judged[sentence.start : sentence.end] = False
    return judged


def judged_ranges(spans: Iterable[Span | PredictedSpan], judged: Characters) -> list[TypedRange]:
    """Shrink spans to their judged characters; a span without any is left out."""
    ranges = []
    for span in spans:
        positions = np.flatnonzero(judged[span.start : span.end])
        if len(positions):
            ranges.append((span.start + int(positions[0]), span.start + int(positions[-1]) + 1, span.type))
    return ranges


def count_characters(pairs: Iterable[tuple[Caption, Sequence[Ranged]]]) -> Counts:
    """Count the characters of captions that are predicted, annotated, or both.

    Args:
        pairs: each caption with the spans predicted for it.
    """
    shared = n_predicted = n_gold = 0
    for caption, spans in pairs:
        if spans or caption.spans:
            judged = judged_characters(caption)
            predicted, gold = cover(spans, judged), cover(caption.spans, judged)
            shared += int(np.count_nonzero(predicted & gold))
            n_predicted += int(np.count_nonzero(predicted))
            n_gold += int(np.count_nonzero(gold))
    return Counts(shared, n_predicted, n_gold)


def cover(spans: Iterable[Ranged], judged: Characters) -> Characters:
    """Mark the judged characters in the union of the spans."""
    covered = np.zeros_like(judged)
    for span in spans:
        covered[span.start : span.end] = True
    covered &= judged
    return covered


def count_typed_characters(caption: Caption, predicted: Sequence[PredictedSpan]) -> Counts:
    """Count pairs of character and type; annotated characters without a type are left out on both sides."""
    typed = [span for span in caption.spans if span.type is not None]
    judged = judged_characters(caption)
    judged &= cover(typed, judged) | ~cover(caption.spans, judged)
    total = Counts()
    for name in {span.type for span in typed} | {span.type for span in predicted}:
        gold_of = cover([span for span in typed if span.type == name], judged)
        predicted_of = cover([span for span in predicted if span.type == name], judged)
        n_shared = int(np.count_nonzero(gold_of & predicted_of))
        total += Counts(n_shared, int(np.count_nonzero(predicted_of)), int(np.count_nonzero(gold_of)))
    return total


def count_by_type(caption: Caption, predicted: Sequence[PredictedSpan]) -> dict[str, Counts]:
    """Count, for each annotated type, its characters and those of them that are predicted, as whatever type.

    What is predicted elsewhere belongs to no type, so of these counts only the recall means something.
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
    """Characters predicted and annotated over those predicted or annotated; 1 if there are neither."""
    judged = judged_characters(caption)
    found, gold = cover(predicted, judged), cover(caption.spans, judged)
    n_union = np.count_nonzero(found | gold)
    return float(np.count_nonzero(found & gold) / n_union) if n_union else 1.0


def count_strict(gold: Sequence[TypedRange], predicted: Sequence[TypedRange]) -> Counts:
    """Count spans of one caption that agree in start, end and type, one to one."""
    shared = Counter(gold) & Counter(predicted)
    return Counts(shared.total(), len(predicted), len(gold))


def count_partial(gold: Sequence[TypedRange], predicted: Sequence[TypedRange]) -> Counts:
    """Count spans of one caption that agree in start and end, and half of those that overlap, one to one.

    The partial match of MUC and SemEval-2013 task 9, whatever the types. Overlapping spans are paired so that as many
    as possible are: each predicted span, in order of its end, takes the overlapping one that ends first.
    """
    golds = Counter((start, end) for start, end, _ in gold)
    predictions = Counter((start, end) for start, end, _ in predicted)
    exact = golds & predictions
    credit: float = exact.total()
    open_golds = sorted((golds - exact).elements(), key=_end_first)
    for start, end in sorted((predictions - exact).elements(), key=_end_first):
        match = next((item for item in open_golds if item[0] < end and start < item[1]), None)
        if match is not None:
            open_golds.remove(match)
            credit += 0.5
    return Counts(credit, len(predicted), len(gold))


def _end_first(item: tuple[int, int]) -> tuple[int, int]:
    return item[1], item[0]
