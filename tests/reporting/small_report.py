"""Predictions and figures small enough to work out by hand, for the tests of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span
from halspan.core.errors import DataError
from halspan.metrics.summary import summarize

Judged = tuple[str, str | None, float | str]
"""Text of a sentence, its label, and its score or why it has none."""


def predict(
    name: str,
    *sentences: Judged,
    generator: str = "sd",
    image: str = "1.png",
    spans: Sequence[tuple[Any, ...]] = (),
    found: Sequence[tuple[Any, ...]] = (),
) -> Prediction:
    """Make a prediction for a caption whose sentences have one space between them."""
    ranges, scores, place = [], [], 0
    for text, label, score in sentences:
        ranges.append(Sentence(place, place + len(text), label))
        scores.append(SentenceScore(None, score) if isinstance(score, str) else SentenceScore(score))
        place += len(text) + 1
    text = " ".join(text for text, _, _ in sentences)
    caption = Caption(
        name, image, generator, "image_to_text", text, tuple(ranges), tuple(Span(*each) for each in spans)
    )
    return Prediction(caption, tuple(scores), tuple(PredictedSpan(*each) for each in found))


PREDICTIONS = [
    predict(
        "sd/1",
        ("A red cat.", "incorrect", 0.9),
        ("It sleeps.", "correct", 0.2),
        spans=[(2, 5, "Attribute")],
        found=[(2, 5, "Attribute", 0.8)],
    ),
    predict(
        "sd/2", ("A dog.", "correct", 0.7), ("It runs.", "incorrect", 0.4), image="2.png", spans=[(10, 14, "Object")]
    ),
    predict("llama-4/1", ("A cow.", "incorrect", 0.6), ("It eats.", "correct", 0.1), generator="llama-4"),
    predict("llama-4/2", ("A hen.", "correct", 0.3), ("It flies.", "unknown", 0.5), generator="llama-4", image="2.png"),
]


def judged(parts: Mapping[str, Sequence[Prediction]], **more: Any) -> dict[str, Any]:
    """Compute the figures of parts as `metrics.json` holds them, with whatever stands beside them."""
    metrics: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, predictions in parts.items():
        metrics[name], missing = summarize(predictions, threshold=0.5)
        reasons |= {f"{name}.{path}": reason for path, reason in missing.items()}
    return metrics | more | {"reasons": reasons | more.get("reasons", {})}


def paint(path: str) -> Image.Image:
    """Return a small picture for every path but those of missing images."""
    if "missing" in path:
        raise DataError(f"image {path}: does not exist; put the file there or correct its path")
    return Image.new("RGB", (8, 6), (len(path) * 7 % 256, 90, 120))
