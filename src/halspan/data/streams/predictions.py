"""Prediction files: read whole or refused, and matched with the truth or with other predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from halspan.core.captions import Caption, Prediction, SentenceScore
from halspan.core.checks import show
from halspan.core.errors import DataError
from halspan.data.corpus import Skips
from halspan.data.readers.jsonl import read_objects

DEFAULT_THRESHOLD = 0.5
NO_PREDICTION = "there is no prediction for this caption"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Predictions and the annotated captions they belong to.

    Attributes:
        predictions: One prediction for each caption of the truth, in order, with the annotation of the truth; a
            caption without a prediction is unscored.
        missing: Ids of the captions without a prediction.
        unknown: Ids of predictions for captions that the truth does not have; they are ignored.
    """

    predictions: tuple[Prediction, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def read_predictions(file: Path, *, stream: BinaryIO | None = None) -> list[Prediction]:
    """Read a detector's predictions, one JSON object per line.

    Args:
        file: The file, compressed where its name ends with `.gz`.
        stream: Stream of the lines; if given, the file is only its name.

    Returns:
        Predictions in the order of the file; image paths are absolute.

    Raises:
        DataError: The file cannot be read, a line is not a prediction (a score is not a number, a span is outside the
            text, ...), or a caption has two predictions; the message names file, line, value and remedy.
    """
    predictions: list[Prediction] = []
    places: dict[str, str] = {}
    for where, record in read_objects(file, Skips("raise"), stream=stream):
        try:
            prediction = Prediction.from_record(record)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        caption = prediction.caption
        if caption.id in places:
            raise DataError(
                f"{where}: id: {caption.id!r} has a prediction at {places[caption.id]} already; keep one of the two"
            )
        places[caption.id] = where
        predictions.append(replace(prediction, caption=replace(caption, image=str(file.parent / caption.image))))
    return predictions


def find_predictions(path: Path, part: str) -> Path:
    """Return the file with the predictions of one part, given a file or a folder (a run, an evaluation, a baseline).

    Raises:
        DataError: There are none; the message lists the parts.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: does not exist; give a run's folder, or a file of predictions")
    folders = [folder for folder in (path / "predictions", path) if any(folder.glob("*.jsonl"))]
    if not folders:
        raise DataError(f"{path}: holds no predictions (*.jsonl); give a finished run's folder, or a file")
    file = folders[0] / f"{part}.jsonl"
    if not file.is_file():
        names = ", ".join(sorted(other.stem for other in folders[0].glob("*.jsonl")))
        raise DataError(f"{folders[0]}: has no part {part!r}; one of {names}")
    return file


def common_threshold(predictions: Sequence[Prediction]) -> float:
    """Return the P(incorrect) from which the predictions call a sentence incorrect; 0.5 where none is given.

    Raises:
        DataError: The predictions have several thresholds.
    """
    found = sorted({each.threshold for each in predictions if each.threshold is not None})
    if len(found) > 1:
        raise DataError(
            f"threshold: the predictions have {len(found)}, {found[0]:.3g} to {found[-1]:.3g}, so they are of several "
            "detectors; judge each by itself, or give one for all: --threshold"
        )
    return found[0] if found else DEFAULT_THRESHOLD


def match_truth(truth: Sequence[Caption], predictions: Sequence[Prediction]) -> Matched:
    """Match the predictions with the captions of the truth, by id.

    Raises:
        DataError: A prediction has another text or other sentences than the caption of its id, or no caption has a
            prediction.
    """
    by_id = {prediction.caption.id: prediction for prediction in predictions}
    if not any(caption.id in by_id for caption in truth):
        raise DataError(
            f"predictions: none of the {len(by_id)} is for one of the {len(truth)} captions (first ids "
            f"{next(iter(by_id), None)!r} and {truth[0].id!r}); give the predictions of these captions"
        )
    matched = []
    for caption in truth:
        prediction = by_id.get(caption.id)
        if prediction is None:
            unscored = tuple(SentenceScore(None, NO_PREDICTION) for _ in caption.sentences)
            matched.append(Prediction(caption, unscored))
            continue
        _check_same_text(caption, prediction.caption)
        matched.append(replace(prediction, caption=caption))
    known = {caption.id for caption in truth}
    return Matched(
        predictions=tuple(matched),
        missing=tuple(caption.id for caption in truth if caption.id not in by_id),
        unknown=tuple(id_ for id_ in by_id if id_ not in known),
    )


def pair(a: Sequence[Prediction], b: Sequence[Prediction]) -> list[tuple[Prediction, Prediction]]:
    """Match two detectors' predictions of the same captions, in the order of the first.

    Captions that only one of them has are left out, so both results have the same length.

    Raises:
        DataError: A caption has another text, other sentences or other labels in the two, or they share none.
    """
    others = {prediction.caption.id: prediction for prediction in b}
    pairs = [(one, others[one.caption.id]) for one in a if one.caption.id in others]
    if not pairs:
        raise DataError(
            f"the two have no caption in common (first ids {a[0].caption.id!r} and {b[0].caption.id!r}); give "
            "predictions of the same captions"
        )
    for one, other in pairs:
        _check_same_text(one.caption, other.caption)
        labels = [[sentence.label for sentence in item.caption.sentences] for item in (one, other)]
        if labels[0] != labels[1] or one.caption.spans != other.caption.spans:
            raise DataError(
                f"caption {one.caption.id!r}: labels or annotated spans differ between the two; judge both by one truth"
            )
    return pairs


def _check_same_text(caption: Caption, other: Caption) -> None:
    if caption.text != other.text:
        raise DataError(
            f"caption {caption.id!r}: the text {show(caption.text)} was predicted as {show(other.text)}; predictions "
            "belong to one text: score these captions again"
        )
    ranges = [[(sentence.start, sentence.end) for sentence in item.sentences] for item in (caption, other)]
    if ranges[0] != ranges[1]:
        raise DataError(
            f"caption {caption.id!r}: {len(ranges[1])} sentences were predicted, at other places than its "
            f"{len(ranges[0])}; score the captions with the sentences of the truth"
        )
