"""The counts behind all span figures of a caption."""

from collections.abc import Mapping
from dataclasses import dataclass

from halspan.core.captions import Prediction
from halspan.metrics.matching import count_exact, count_partial, count_strict, count_type, judged_ranges
from halspan.metrics.span import (
    Counts,
    count_by_type,
    count_characters,
    count_typed_characters_by_type,
    iou,
    judged_characters,
)


@dataclass(frozen=True, slots=True)
class SpanCounts:
    """Counts of one caption; counts of several captions add up.

    Attributes:
        char: Characters.
        typed: Pairs of character and type.
        strict: Spans that agree in start, end and type.
        exact: Spans that agree in start and end.
        partial: The same, and half of those that overlap.
        type: Spans that overlap and agree in type.
        iou: Characters predicted and annotated over those predicted or annotated.
        found_by_type: Characters of each annotated type, predicted as any type.
        typed_by_type: Characters of each type.
    """

    char: Counts
    typed: Counts
    strict: Counts
    exact: Counts
    partial: Counts
    type: Counts
    iou: float
    found_by_type: Mapping[str, Counts]
    typed_by_type: Mapping[str | None, Counts]


def count_spans(prediction: Prediction) -> SpanCounts:
    """Count the spans of one caption by every criterion."""
    caption, spans = prediction.caption, prediction.spans
    judged = judged_characters(caption)
    gold, predicted = judged_ranges(caption.spans, judged), judged_ranges(spans, judged)
    typed_by_type = count_typed_characters_by_type(caption, spans)
    return SpanCounts(
        char=count_characters([(caption, spans)]),
        typed=sum(typed_by_type.values(), Counts()),
        strict=count_strict(gold, predicted),
        exact=count_exact(gold, predicted),
        partial=count_partial(gold, predicted),
        type=count_type(gold, predicted),
        iou=iou(caption, spans),
        found_by_type=count_by_type(caption, spans),
        typed_by_type=typed_by_type,
    )
