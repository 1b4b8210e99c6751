"""The rows of a report's tables, from `metrics.json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halspan.reporting.figures import Figure, find_figure, look_up, part_names
from halspan.reporting.headline import best_blind_baseline
from halspan.reporting.paper_table import CONTROLS, Row

COUNTS = {
    "captions": "captions",
    "images": "images",
    "sentences": "sentences",
    "incorrect": "incorrect sentences",
    "unknown": "sentences without a judgment",
    "unscored": "sentences without a score",
    "spans": "annotated spans",
    "no_span": "incorrect sentences without a span",
    "captions_in_train": "captions that occur in train",
    "sentences_in_train": "sentences that occur in train",
    "left_out": "captions left out for training",
    "sampled_from": "captions that they were sampled from",
}
_RATES = {"precision": "precision", "recall": "recall", "f1": "F1"}
_MATCHES = {
    "strict": "strict (ends and type)",
    "exact": "exact (ends)",
    "partial": "partial (overlap counts half)",
    "type": "type (overlap and type)",
}
GROUPS: dict[str, dict[str, str]] = {
    "Sentences": {
        "sentence.auroc.macro": "AUROC, mean over generators",
        "sentence.auroc.pooled": "AUROC, generators pooled",
        "sentence.auprc": "AUPRC of incorrect",
        "sentence.recall_at_10fpr": "recall at 10 % false positives",
        "sentence.brier": "Brier score (lower is better)",
        "sentence.ece": "calibration error, ECE (lower is better)",
        "sentence.threshold": "threshold of accuracy and F1",
        "sentence.accuracy": "accuracy",
        "sentence.f1": "F1 of incorrect",
    },
    "Characters": {
        **{f"span.char.{rate}": f"character {name}" for rate, name in _RATES.items()},
        "span.typed_char_f1": "typed character F1",
        "span.iou": "IoU, all captions",
        "span.iou_where_span": "IoU, captions with a span",
    },
    "Spans, one to one (SemEval-2013)": {
        f"span.{match}.{rate}": f"{title}: {name}" for match, title in _MATCHES.items() for rate, name in _RATES.items()
    },
    "Tokens": {f"token.{rate}": f"token {name}" for rate, name in _RATES.items()},
}
_WITHOUT = "without_train_texts"
_OF_WITHOUT = {
    path: title
    for group in GROUPS.values()
    for path, title in group.items()
    if path in ("sentence.auroc.macro", "sentence.auroc.pooled", "span.char.f1", "span.typed_char_f1")
}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of figures."""

    title: str
    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class Card:
    """One figure of the headline, and the value it is compared with."""

    title: str
    figure: Figure
    note: str = ""


@dataclass(frozen=True, slots=True)
class CostLine:
    """The work of scoring for one row."""

    title: str
    image_encodings: int
    tokens: int
    sentences: int

    @property
    def encodings_per_sentence(self) -> float | None:
        """Return the image encodings per sentence; None without sentences."""
        return self.image_encodings / self.sentences if self.sentences else None

    @property
    def tokens_per_sentence(self) -> float | None:
        """Return the tokens per sentence; None without sentences."""
        return self.tokens / self.sentences if self.sentences else None


def headline_cards(metrics: Mapping[str, Any], part: str, rows: Sequence[Row]) -> list[Card]:
    """Return the figures that come first: on the main part, without the right images, and without images."""
    baseline = best_blind_baseline(rows)
    nothing = Figure(None, reason="no image-blind baseline was judged")
    return [
        Card("Sentence AUROC", find_figure(metrics, (part,), "sentence.auroc.macro"), "mean over generators"),
        Card("Character F1", find_figure(metrics, (part,), "span.char.f1"), "hallucinated words"),
        Card("Typed character F1", find_figure(metrics, (part,), "span.typed_char_f1"), "words and their type"),
        *(
            Card(f"AUROC, {title}", find_figure(metrics, (name,), "sentence.auroc.macro"), "control")
            for name, title in CONTROLS.items()
        ),
        Card(
            "Best image-blind baseline",
            baseline.mean.figure if baseline else nothing,
            f"AUROC, {baseline.title}" if baseline else "AUROC",
        ),
    ]


def figure_groups(metrics: Mapping[str, Any]) -> dict[str, list[Line]]:
    """Return every figure of every part, with parts in columns; a group that no part has is left out."""
    parts = part_names(metrics)
    groups = {
        title: [Line(name, [find_figure(metrics, (part,), path) for part in parts]) for path, name in figures.items()]
        for title, figures in GROUPS.items()
        if any(look_up(metrics, part, next(iter(figures)).split(".")[0]) for part in parts)
    }
    if any(look_up(metrics, part, _WITHOUT) for part in parts):
        groups["Without sentences that occur in train"] = [
            Line(name, [find_figure(metrics, (part, _WITHOUT), path) for part in parts])
            for path, name in _OF_WITHOUT.items()
        ]
    return groups


def generator_lines(metrics: Mapping[str, Any], part: str) -> list[tuple[Mapping[str, int], Line]]:
    """Return the counts and main figures of each generator of a part."""
    paths = ("sentence.auroc", "span.char.f1", "span.typed_char_f1")
    return [
        (row.get("n") or {}, Line(name, [find_figure(metrics, (part, "by_generator", name), path) for path in paths]))
        for name, row in (look_up(metrics, part, "by_generator") or {}).items()
    ]


def type_lines(metrics: Mapping[str, Any], part: str) -> list[Line]:
    """Return, for each type, the character recall as any type, and the rates of its typed characters."""
    by_type = look_up(metrics, part, "span", "by_type") or {}
    return [
        Line(
            name,
            [
                find_figure(metrics, (part,), "span.by_type", name, "char_recall"),
                *(find_figure(metrics, (part,), "span.by_type", name, "typed", rate) for rate in _RATES),
            ],
        )
        for name in by_type
    ]


def token_note(metrics: Mapping[str, Any]) -> str:
    """Return the note on what token figures can be compared with, from the first part that has any."""
    notes = (look_up(metrics, part, "token", "note") for part in part_names(metrics))
    return next((note for note in notes if note), "")


def cost_lines(metrics: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[CostLine]:
    """Yield the cost of the detector, and of each member and baseline with a known cost."""
    for row in rows:
        is_main = row.kind == "detector"
        if cost := metrics.get("cost") if is_main else look_up(metrics, f"{row.kind}s", row.name, "cost"):
            yield CostLine(row.title, cost["image_encodings"], cost["tokens"], cost["sentences"])
