"""Results of `Detector.predict`: sentences, marked spans, and the parts of a text that could not be scored."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from halspan.core import captions as core

SCHEMA = "halspan.prediction/1"

_STYLE = {
    "text": "line-height:1.8;white-space:pre-wrap",
    "incorrect": "border-bottom:2px solid #d33",
    "correct": "",
    "unscored": "opacity:0.55;border-bottom:2px dotted #888",
    "span": "background:rgba(221,51,51,0.28);color:inherit;border-radius:3px;padding:0 2px",
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that was scored.

    Attributes:
        start: First character of the text, counted from 0.
        end: The character after the last one.
        text: The sentence.
        p_incorrect: Calibrated probability that it is incorrect, 0 to 1.
        is_incorrect: Whether `p_incorrect` is at or above the detector's threshold.
    """

    start: int
    end: int
    text: str
    p_incorrect: float
    is_incorrect: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Characters that the detector considers hallucinated.

    Attributes:
        start: First character of the text, counted from 0.
        end: The character after the last one.
        type: Type, from the detector's taxonomy.
        score: Probability, 0 to 1.
        text: The characters.
    """

    start: int
    end: int
    type: str | None
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Unscored:
    """A part of the text that the detector did not judge; it may be right or wrong.

    Attributes:
        start: First character of the text, counted from 0.
        end: The character after the last one.
        text: The characters.
        reason: Reason why there is no score.
    """

    start: int
    end: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """The detector's judgment of a text and its image.

    Attributes:
        text: The text.
        sentences: Scored sentences, in order.
        spans: Hallucinated characters, in order, disjoint, inside scored sentences.
        unscored: Sentences without a score, in order.
    """

    text: str
    sentences: tuple[Sentence, ...]
    spans: tuple[Span, ...]
    unscored: tuple[Unscored, ...]

    @classmethod
    def of(cls, prediction: core.Prediction, *, threshold: float) -> "Prediction":
        """Build the result from a prediction about a caption.

        Args:
            prediction: Prediction about a caption.
            threshold: Lowest probability at which a sentence is called incorrect.

        >>> caption = core.Caption("a", "a.png", "llava", "image_to_text", "A cat.", (core.Sentence(0, 6),))
        >>> Prediction.of(core.Prediction(caption, (core.SentenceScore(0.9),)), threshold=0.5).sentences
        (Sentence(start=0, end=6, text='A cat.', p_incorrect=0.9, is_incorrect=True),)
        """
        text = prediction.caption.text
        sentences, unscored = [], []
        for sentence, score in zip(prediction.caption.sentences, prediction.sentences, strict=True):
            place = (sentence.start, sentence.end, text[sentence.start : sentence.end])
            if score.p_incorrect is None:
                unscored.append(Unscored(*place, score.unscored or ""))
            else:
                sentences.append(Sentence(*place, score.p_incorrect, score.p_incorrect >= threshold))
        spans = (
            Span(span.start, span.end, span.type, span.score, text[span.start : span.end]) for span in prediction.spans
        )
        return cls(text, tuple(sentences), tuple(spans), tuple(unscored))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object; its `schema` is the version of the layout.

        >>> Prediction("A cat.", (), (Span(2, 5, "Object", 0.8, "cat"),), ()).to_dict()["spans"]
        [{'start': 2, 'end': 5, 'type': 'Object', 'score': 0.8, 'text': 'cat'}]
        """
        return {
            "schema": SCHEMA,
            "text": self.text,
            "sentences": [asdict(item) for item in self.sentences],
            "spans": [asdict(item) for item in self.spans],
            "unscored": [asdict(item) for item in self.unscored],
        }

    def _repr_html_(self) -> str:
        """Return HTML for a notebook, with hallucinated words marked, incorrect and unscored sentences underlined."""
        return f'<div dir="auto" style="{_STYLE["text"]}">{"".join(self._pieces())}</div>'

    def _pieces(self) -> Iterator[str]:
        at = 0
        parts: list[Sentence | Unscored] = [*self.sentences, *self.unscored]
        for part in sorted(parts, key=lambda part: part.start):
            yield escape(self.text[at : part.start])
            if isinstance(part, Unscored):
                yield _element("span", "unscored", f"not scored: {part.reason}", escape(part.text))
            else:
                kind = "incorrect" if part.is_incorrect else "correct"
                inner = "".join(self._marked(part))
                yield _element("span", kind, f"P(incorrect) {part.p_incorrect:.2f}", inner)
            at = part.end
        yield escape(self.text[at:])

    def _marked(self, sentence: Sentence) -> Iterator[str]:
        at = sentence.start
        for span in self.spans:
            if sentence.start <= span.start < sentence.end:
                yield escape(self.text[at : span.start])
                yield _element("mark", "span", f"{span.type or 'hallucinated'} {span.score:.2f}", escape(span.text))
                at = span.end
        yield escape(self.text[at : sentence.end])


def _element(tag: str, kind: str, title: str, inner: str) -> str:
    return f'<{tag} style="{_STYLE[kind]}" title="{escape(title)}">{inner}</{tag}>'
