"""Captions with annotated sentences and spans, predictions about them, and the JSON records of both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from halspan.core.checks import (
    check_choice,
    check_int,
    check_keys,
    check_logit,
    check_object,
    check_probability,
    check_range,
    check_text,
    get_list,
    read_list,
    show,
)
from halspan.core.errors import DataError
from halspan.core.record_keys import CAPTION_KEYS, PREDICTED_SPAN_KEYS, SENTENCE_KEYS, SPAN_KEYS, VOTES_KEYS
from halspan.core.text.ranges import check_inside, check_sentences
from halspan.core.text.sentences import split_sentences

Label = Literal["correct", "incorrect", "unknown"]
Direction = Literal["image_to_text", "text_to_image"]
LABELS: tuple[str, ...] = get_args(Label)
DIRECTIONS: tuple[str, ...] = get_args(Direction)


@dataclass(frozen=True, slots=True)
class Span:
    """Hallucinated characters `[start, end)` of a caption's text.

    Attributes:
        start: First character, counted from 0.
        end: The character after the last one.
        type: Type of hallucination; None where it is unknown.

    Raises:
        DataError: The range is not a range, is empty, or the type is not text.
    """

    start: int
    end: int
    type: str | None = None

    def __post_init__(self) -> None:
        check_range(self.start, self.end)
        if self.type is not None:
            check_text("type", self.type)


@dataclass(frozen=True, slots=True)
class Votes:
    """Numbers of annotators who called a sentence correct, incorrect, or unknown.

    Raises:
        DataError: A count is negative or not a whole number.
    """

    correct: int
    incorrect: int
    unknown: int = 0

    def __post_init__(self) -> None:
        for name in ("correct", "incorrect", "unknown"):
            count = getattr(self, name)
            check_int(name, count)
            if count < 0:
                raise DataError(f"{name}: {count} is negative; votes are counts, 0 or more")

    @property
    def majority(self) -> Literal["correct", "incorrect"] | None:
        """Return the label with more votes, of correct and incorrect; None if neither has more.

        >>> Votes(correct=1, incorrect=2).majority
        'incorrect'
        """
        if self.correct == self.incorrect:
            return None
        return "correct" if self.correct > self.incorrect else "incorrect"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence `[start, end)` of a caption's text, with its annotation.

    Attributes:
        start: First character, counted from 0.
        end: The character after the last one.
        label: Label; None where the sentence is unlabeled.
        types: Types of hallucination of the sentence as a whole; none, one or several.
        votes: The annotators' votes, where they are known.

    Raises:
        DataError: The range is not a range or is empty, or the label or a type is not possible.
    """

    start: int
    end: int
    label: Label | None = None
    types: tuple[str, ...] = ()
    votes: Votes | None = None

    def __post_init__(self) -> None:
        check_range(self.start, self.end)
        if self.label is not None:
            check_choice("label", self.label, LABELS)
        for index, name in enumerate(self.types):
            check_text(f"types[{index}]", name)

    @property
    def outvoted_by(self) -> Literal["correct", "incorrect"] | None:
        """Return the majority label if it contradicts the sentence's own label; None otherwise."""
        if self.votes is None or self.label not in ("correct", "incorrect"):
            return None
        majority = self.votes.majority
        return None if majority == self.label else majority

    @property
    def target(self) -> float | None:
        """Return the training target, which is the share of votes for incorrect, or the label as 0 or 1 without votes.

        None where there is nothing to learn: the label is unknown, or there is neither a label nor a vote for
        correct or incorrect.

        >>> Sentence(0, 4, "incorrect").target, Sentence(0, 4, votes=Votes(correct=3, incorrect=1)).target
        (1.0, 0.25)
        """
        if self.label == "unknown":
            return None
        if self.votes is not None and (n_judged := self.votes.incorrect + self.votes.correct):
            return self.votes.incorrect / n_judged
        return None if self.label is None else float(self.label == "incorrect")


@dataclass(frozen=True, slots=True)
class Caption:
    """One image and one text about it.

    Attributes:
        id: Unique within a corpus.
        image: Path of the image, as the corpus writes it.
        generator: Model that wrote the text (a captioner) or made the image (a text-to-image model).
        direction: Which of these two the generator did.
        text: The whole text.
        sentences: At least one sentence, in order and disjoint; text between them is not judged.
        spans: Hallucinated characters, in any order; they may overlap.

    Raises:
        DataError: A field is empty or of the wrong type, or a sentence or span does not fit the text.
    """

    id: str
    image: str
    generator: str
    direction: Direction
    text: str
    sentences: tuple[Sentence, ...]
    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        for name in ("id", "image", "generator", "text"):
            check_text(name, getattr(self, name))
        check_choice("direction", self.direction, DIRECTIONS)
        check_sentences(self.sentences, self.text)
        check_inside("spans", self.spans, self.text)

    def spans_in(self, sentence: Sentence) -> tuple[Span, ...]:
        """Return the spans that share at least one character with a sentence."""
        return tuple(span for span in self.spans if span.start < sentence.end and sentence.start < span.end)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a caption from its JSON object; null is the same as an absent optional key.

        Without `sentences` the text is split into unlabeled ones. The keys that a prediction adds (`predicted`,
        `threshold`, and `p_incorrect`, `logit` and `unscored` of a sentence) are accepted and ignored.

        Raises:
            DataError: The record is not a caption; the message names the field, the value and the remedy.

        >>> record = {"id": "a", "image": "a.png", "generator": "llava", "direction": "image_to_text", "text": "A cat."}
        >>> Caption.from_record(record).sentences
        (Sentence(start=0, end=6, label=None, types=(), votes=None),)
        """
        check_object("record", record)
        check_keys("a caption", record, CAPTION_KEYS, n_required=5)
        if record.get("sentences") is None:
            check_text("text", record["text"])
            sentences = tuple(Sentence(start, end) for start, end in split_sentences(record["text"]))
        else:
            sentences = read_list(record, "sentences", _read_sentence)
        return cls(
            id=record["id"],
            image=record["image"],
            generator=record["generator"],
            direction=record["direction"],
            text=record["text"],
            sentences=sentences,
            spans=read_list(record, "spans", read_span),
        )

    def to_record(self) -> dict[str, Any]:
        """Write the caption as a JSON object that `from_record` reads back to an equal caption."""
        return {
            "id": self.id,
            "image": self.image,
            "generator": self.generator,
            "direction": self.direction,
            "text": self.text,
            "sentences": [_sentence_record(sentence) for sentence in self.sentences],
            "spans": [{"start": span.start, "end": span.end, "type": span.type} for span in self.spans],
        }


@dataclass(frozen=True, slots=True)
class PredictedSpan:
    """Characters `[start, end)` that a detector considers hallucinated.

    Attributes:
        start: First character, counted from 0.
        end: The character after the last one.
        type: Type of hallucination; None from a detector without types.
        score: Probability, 0 to 1.

    Raises:
        DataError: The range is not a range or is empty, or the score is not a probability.
    """

    start: int
    end: int
    type: str | None
    score: float

    def __post_init__(self) -> None:
        check_range(self.start, self.end)
        if self.type is not None:
            check_text("type", self.type)
        check_probability("score", self.score)


@dataclass(frozen=True, slots=True)
class SentenceScore:
    """A detector's judgment of one sentence: a probability, or the reason why there is none.

    Attributes:
        p_incorrect: Probability that the sentence is incorrect, 0 to 1; None if it is unscored.
        unscored: The reason why there is no probability; None if there is one.
        logit: Log-odds of `p_incorrect`, in nats, which rank sentences whose probability rounds to 0 or 1; None where
            only the probability is known.

    Raises:
        DataError: Both are given or neither is, `p_incorrect` is not a probability, or the logit does not match it.
    """

    p_incorrect: float | None
    unscored: str | None = None
    logit: float | None = None

    def __post_init__(self) -> None:
        if self.p_incorrect is None:
            if self.unscored is None:
                raise DataError("p_incorrect: null without a reason; give a probability, or say why in `unscored`")
            check_text("unscored", self.unscored)
            return
        check_probability("p_incorrect", self.p_incorrect)
        if self.unscored is not None:
            raise DataError(
                f"unscored: {show(self.unscored)} with p_incorrect {self.p_incorrect}; a sentence has one of the two"
            )
        if self.logit is not None:
            check_logit("logit", self.logit, of=self.p_incorrect)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A detector's judgment of one caption.

    Attributes:
        caption: The caption, with any annotation it has.
        sentences: One score for each of the caption's sentences, in their order.
        spans: Spans that the detector marked.
        threshold: P(incorrect) from which the detector calls a sentence incorrect; None where it is unknown.

    Raises:
        DataError: The number of scores is not the number of sentences, a span does not fit the text, or the threshold
            is not a probability.
    """

    caption: Caption
    sentences: tuple[SentenceScore, ...]
    spans: tuple[PredictedSpan, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if len(self.sentences) != len(self.caption.sentences):
            raise DataError(
                f"sentences: {len(self.sentences)} scores for the {len(self.caption.sentences)} sentences of caption "
                f"{self.caption.id!r}; give one score for each"
            )
        check_inside("predicted", self.spans, self.caption.text)
        if self.threshold is not None:
            check_probability("threshold", self.threshold)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a prediction from its JSON object.

        Raises:
            DataError: The record is not a caption, or has no prediction; the message names field, value and remedy.
        """
        caption = Caption.from_record(record)
        if record.get("sentences") is None or record.get("predicted") is None:
            raise DataError("predicted: missing; this is a caption without a prediction: score it first")
        return cls(
            caption=caption,
            sentences=read_list(record, "sentences", _read_score),
            spans=read_list(record, "predicted", _read_predicted_span),
            threshold=record.get("threshold"),
        )

    def to_record(self) -> dict[str, Any]:
        """Write the caption's JSON object, with the detector's scores of sentences and its spans."""
        record = self.caption.to_record()
        for sentence, score in zip(record["sentences"], self.sentences, strict=True):
            sentence["p_incorrect"] = score.p_incorrect
            if score.logit is not None:
                sentence["logit"] = score.logit
            if score.unscored is not None:
                sentence["unscored"] = score.unscored
        record["predicted"] = [
            {"start": span.start, "end": span.end, "type": span.type, "score": span.score} for span in self.spans
        ]
        if self.threshold is not None:
            record["threshold"] = self.threshold
        return record


def _read_sentence(record: Mapping[str, Any]) -> Sentence:
    check_keys("a sentence", record, SENTENCE_KEYS, n_required=2)
    return Sentence(
        start=record["start"],
        end=record["end"],
        label=record.get("label"),
        types=tuple(get_list(record, "types")),
        votes=read_votes(record.get("votes")),
    )


def read_votes(record: Any) -> Votes | None:
    """Read the votes of a sentence from their JSON object; None means that there are none.

    Raises:
        DataError: The value is not a record of votes; the message names the field.
    """
    if record is None:
        return None
    check_object("votes", record)
    try:
        check_keys("an object of votes", record, VOTES_KEYS, n_required=2)
        return Votes(record["correct"], record["incorrect"], record.get("unknown", 0))
    except DataError as error:
        raise DataError(f"votes.{error}") from None


def read_span(record: Mapping[str, Any]) -> Span:
    """Read a span from its JSON object.

    Raises:
        DataError: The value is not a span; the message names the field.
    """
    check_keys("a span", record, SPAN_KEYS, n_required=2)
    return Span(record["start"], record["end"], record.get("type"))


def _read_score(record: Mapping[str, Any]) -> SentenceScore:
    return SentenceScore(record.get("p_incorrect"), record.get("unscored"), record.get("logit"))


def _read_predicted_span(record: Mapping[str, Any]) -> PredictedSpan:
    check_keys("a predicted span", record, PREDICTED_SPAN_KEYS, n_required=4)
    return PredictedSpan(record["start"], record["end"], record["type"], record["score"])


def _sentence_record(sentence: Sentence) -> dict[str, Any]:
    record: dict[str, Any] = {"start": sentence.start, "end": sentence.end}
    if sentence.label is not None:
        record["label"] = sentence.label
    if sentence.types:
        record["types"] = list(sentence.types)
    if (votes := sentence.votes) is not None:
        record["votes"] = {"correct": votes.correct, "incorrect": votes.incorrect, "unknown": votes.unknown}
    return record
