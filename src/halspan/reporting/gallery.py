"""The captions in a report: a sample, cut where marks begin and end, with the attributes that filters need."""

import base64
import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from PIL import Image

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span
from halspan.core.errors import DataError
from halspan.metrics.span import cover, judged_characters

OUTCOMES: dict[str, tuple[str, str]] = {
    "missed": ("sentence missed", "an incorrect sentence scores below the threshold"),
    "false": ("sentence falsely flagged", "a correct sentence scores at or above the threshold"),
    "right": ("all sentences right", "at least one sentence is judged, and none is missed or falsely flagged"),
    "unjudged": ("no sentence judged", "no sentence is both labeled correct or incorrect and scored"),
    "words_missed": ("words missed", "of an annotated span no character is predicted, as any type"),
    "words_false": ("words falsely marked", "of a predicted span no character is annotated"),
    "words_type": ("wrong type", "a predicted span touches annotated ones of known types, none of which is its own"),
    "words_right": ("all words found", "there are annotated spans, and none of the three applies"),
}
"""Filters of captions, with their definitions; several may apply to one caption.

Characters count as in the span figures: those of sentences without a judgment, and of incorrect ones without an
annotated span, are left out on both sides.
"""
THUMBNAIL = 256  # pixels
_TINY = 64  # pixels; up to this size, PNG is smaller and exact
_QUALITY = 50  # quality of WebP: 9 kB per photo, enough to recognize the content

_JUDGED = ("correct", "incorrect")

ReadImage = Callable[[str], Image.Image]
Mark = Span | PredictedSpan


def sample(parts: Mapping[str, Sequence[Prediction]], n: int, *, seed: int = 0) -> dict[str, list[Prediction]]:
    """Choose captions so that each part and generator keeps its share, and at least one where n allows it.

    Args:
        parts: Predictions by the name of their part.
        n: Largest number of captions to choose.
        seed: Seed of the choice within a part and generator.

    Returns:
        The chosen captions, in order.
    """
    random_ = random.Random(seed)
    strata: dict[tuple[str, str], list[int]] = {}
    for part, predictions in parts.items():
        for index, prediction in enumerate(predictions):
            strata.setdefault((part, prediction.caption.generator), []).append(index)
    ranked = []
    for (part, _), indexes in strata.items():
        shuffled = random_.sample(indexes, len(indexes))
        ranked += [(rank / len(indexes), part, index) for rank, index in enumerate(shuffled)]
    chosen = {(part, index) for _, part, index in sorted(ranked)[:n]}
    return {
        part: [prediction for index, prediction in enumerate(predictions) if (part, index) in chosen]
        for part, predictions in parts.items()
    }


def gallery_data(
    parts: Mapping[str, Sequence[Prediction]],
    *,
    thresholds: Mapping[str, float],
    read_image: ReadImage,
    max_captions: int,
) -> dict[str, Any]:
    """Return one JSON object with everything that a page needs to show and filter captions.

    Args:
        parts: Predictions by the name of their part.
        thresholds: Lowest P(incorrect) at which a sentence counts as flagged, by part.
        read_image: Function that returns the image of a path; a DataError becomes the placeholder's text.
        max_captions: Largest number of captions to show.
    """
    shown = sample(parts, max_captions)
    predictions = [each for part in shown.values() for each in part]
    types = sorted({name for each in predictions for name in _types(each) if name is not None})
    images = {path: thumbnail(path, read_image) for path in dict.fromkeys(each.caption.image for each in predictions)}
    places = {path: place for place, path in enumerate(images)}
    return {
        "n_all": sum(map(len, parts.values())),
        "n_unreadable": sum("reason" in image for image in images.values()),
        "parts": list(shown),
        "thresholds": dict(thresholds),
        "generators": sorted({each.caption.generator for each in predictions}),
        "types": types,
        "abbreviations": abbreviate(types),
        "images": list(images.values()),
        "captions": [
            {"part": part, "image": places[each.caption.image]} | caption_record(each, types, thresholds[part])
            for part, members in shown.items()
            for each in members
        ],
    }


def caption_record(prediction: Prediction, types: Sequence[str], threshold: float) -> dict[str, Any]:
    """Describe one caption: its rows of text, and attributes for filters and sorting.

    Args:
        prediction: Prediction about the caption.
        types: Names of the types; the record has their indexes.
        threshold: Lowest P(incorrect) at which a sentence counts as flagged.
    """
    caption = prediction.caption
    pairs = list(zip(caption.sentences, prediction.sentences, strict=True))
    scores = [score.p_incorrect for score in prediction.sentences if score.p_incorrect is not None]
    errors = [error for sentence, score in pairs if (error := _error(sentence, score)) is not None]
    return {
        "id": caption.id,
        "generator": caption.generator,
        "file": PurePath(caption.image).name,
        "types": sorted({types.index(name) for name in _types(prediction) if name is not None}),
        "outcomes": outcomes(prediction, threshold),
        "highest": max(scores, default=None),
        "wrong": max(errors, default=None),
        "rows": list(_rows(prediction, types, threshold)),
    }


def outcomes(prediction: Prediction, threshold: float) -> list[str]:
    """List the outcomes (`OUTCOMES`) that apply to a caption."""
    pairs = zip(prediction.caption.sentences, prediction.sentences, strict=True)
    found = {outcome for sentence, score in pairs if (outcome := _outcome(sentence, score, threshold))}
    of_sentences = (found - {"right"} or found) or {"unjudged"}
    applying = of_sentences | _span_outcomes(prediction)
    return [name for name in OUTCOMES if name in applying]


def segments(
    caption: Caption, predicted: Sequence[PredictedSpan], start: int, end: int, types: Sequence[str]
) -> list[dict[str, Any]]:
    """Cut characters [start, end) where a span begins or ends, so that overlapping spans need no nesting.

    Returns:
        The pieces. Each has its `text`; the types of the annotated spans (`gold`) and of the predicted spans (`found`)
        that cover it, as indexes, null for an unknown type; and `ends`, the spans that end with it: whether they are
        predicted, their type and score. Keys without content are left out.
    """
    marks: tuple[Mark, ...] = (*caption.spans, *predicted)
    spans = [span for span in marks if span.start < end and start < span.end]
    cuts = sorted({start, end, *(cut for span in spans for cut in (span.start, span.end) if start < cut < end)})
    pieces = []
    for left, right in pairwise(cuts):
        covering = [span for span in spans if span.start <= left and right <= span.end]
        piece = {
            "text": caption.text[left:right],
            "gold": [_index(types, span.type) for span in covering if isinstance(span, Span)],
            "found": [_index(types, span.type) for span in covering if isinstance(span, PredictedSpan)],
            "ends": [_ending(span, types) for span in covering if span.end == right],
        }
        pieces.append({key: value for key, value in piece.items() if value})
    return pieces


def thumbnail(path: str, read_image: ReadImage) -> dict[str, Any]:
    """Return a small copy of an image as a data URI with its size, or the reason why there is none."""
    try:
        image = read_image(path).convert("RGB")
    except DataError as error:
        return {"reason": str(error).partition(": ")[2] or str(error)}  # without the folder, which is private
    image.info = {}  # no color profile, no EXIF
    tiny = max(image.size) <= _TINY
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    if tiny:
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "WEBP", quality=_QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width, height = image.size
    return {"src": f"data:image/{'png' if tiny else 'webp'};base64,{data}", "width": width, "height": height}


def abbreviate(names: Sequence[str]) -> list[str]:
    """Shorten names to their first letters: three, or more where needed to keep them distinct.

    >>> abbreviate(["Object", "Location"])
    ['Obj', 'Loc']
    """

    def shorten(name: str) -> str:
        others = [other for other in names if other != name]
        lengths = range(3, len(name))
        return next((name[:n] for n in lengths if not any(other.startswith(name[:n]) for other in others)), name)

    return [shorten(name) for name in names]


def _rows(prediction: Prediction, types: Sequence[str], threshold: float) -> Iterable[dict[str, Any]]:
    """Yield each sentence with its score, and the text between sentences."""
    caption, place = prediction.caption, 0
    for sentence, score in zip(caption.sentences, prediction.sentences, strict=True):
        yield from _between(prediction, place, sentence.start, types)
        marked = {span.type for span in caption.spans_in(sentence)}
        row: dict[str, Any] = {
            "segments": segments(caption, prediction.spans, sentence.start, sentence.end, types),
            "label": sentence.label or "unlabeled",
            "p": score.p_incorrect,
            "unscored": score.unscored,
            "types": [types.index(name) for name in sentence.types if name not in marked],
            "outcome": _outcome(sentence, score, threshold),
        }
        if (votes := sentence.votes) is not None:
            row["votes"] = [votes.correct, votes.incorrect, votes.unknown]
        yield {key: value for key, value in row.items() if value is not None and value != []}
        place = sentence.end
    yield from _between(prediction, place, len(caption.text), types)


def _between(prediction: Prediction, start: int, end: int, types: Sequence[str]) -> Iterable[dict[str, Any]]:
    if prediction.caption.text[start:end].strip():
        yield {"segments": segments(prediction.caption, prediction.spans, start, end, types)}


def _outcome(sentence: Sentence, score: SentenceScore, threshold: float) -> str | None:
    if score.p_incorrect is None or sentence.label not in _JUDGED:
        return None
    flagged = score.p_incorrect >= threshold
    if flagged == (sentence.label == "incorrect"):
        return "right"
    return "false" if flagged else "missed"


def _error(sentence: Sentence, score: SentenceScore) -> float | None:
    """Return the distance of the score from the label, 0 to 1; None without a label or a score."""
    if score.p_incorrect is None or sentence.label not in _JUDGED:
        return None
    return abs(score.p_incorrect - (sentence.label == "incorrect"))


def _span_outcomes(prediction: Prediction) -> set[str]:
    """Compare the spans of a caption, character by judged character."""
    caption = prediction.caption
    judged = judged_characters(caption)
    gold = [(span, cover([span], judged)) for span in caption.spans]
    found = [(span, cover([span], judged)) for span in prediction.spans]
    gold = [(span, characters) for span, characters in gold if characters.any()]
    found = [(span, characters) for span, characters in found if characters.any()]
    outcome = set()
    if not all(any((one & other).any() for _, other in found) for _, one in gold):
        outcome.add("words_missed")
    for span, characters in found:
        touched = [other.type for other, own in gold if (characters & own).any()]
        if not touched:
            outcome.add("words_false")
        elif span.type not in touched and None not in touched:
            outcome.add("words_type")
    return outcome or ({"words_right"} if gold else set())


def _types(prediction: Prediction) -> Iterable[str | None]:
    yield from (name for sentence in prediction.caption.sentences for name in sentence.types)
    yield from (span.type for span in prediction.caption.spans)
    yield from (span.type for span in prediction.spans)


def _index(types: Sequence[str], name: str | None) -> int | None:
    return None if name is None else types.index(name)


def _ending(span: Mark, types: Sequence[str]) -> dict[str, Any]:
    score = {"score": span.score} if isinstance(span, PredictedSpan) else {}
    return {"type": _index(types, span.type), **score}
