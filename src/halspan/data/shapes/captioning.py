"""Captions of scenes by a simulated generator, with errors at known places and simulated annotators' votes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from halspan.core.captions import Caption, Label, Sentence, Span, Votes
from halspan.data.shapes.generators import Generator
from halspan.data.shapes.language import ERROR_TYPES_BY_KIND, Statement, corrupt, true_statements, word
from halspan.data.shapes.scenes import Scene

_ANNOTATORS = 3
_VOTE_RIGHT, _VOTE_UNKNOWN = 0.95, 0.02
_UNDECIDED = 0.03  # share of sentences without a decision of the annotators: label `unknown`
_UNMARKED = 0.03  # share of incorrect sentences without marked words


def caption_scene(scene: Scene, generator: Generator, rng: random.Random, *, caption_id: str, image: str) -> Caption:
    """Return one annotated caption of `scene`, written in the style of `generator`."""
    text, sentences, spans = "", list[Sentence](), list[Span]()
    for position, true in enumerate(select_statements(scene, generator.kinds, rng.randint(*generator.sentences), rng)):
        statement = true
        if rng.random() < generator.error_probability(position):
            statement = _with_error(true, scene, generator, rng)
        text += " " if text else ""
        sentence, wrong = word(statement, generator.style, rng)
        label, votes = _vote("correct" if wrong is None else "incorrect", rng)
        sentences.append(Sentence(len(text), len(text) + len(sentence), label, _types(statement, label), votes))
        if wrong is not None and label == "incorrect" and rng.random() >= _UNMARKED:
            spans.append(Span(len(text) + wrong[0], len(text) + wrong[1], statement.error_type))
        text += sentence
    return Caption(
        id=caption_id,
        image=image,
        generator=generator.name,
        direction=generator.direction,
        text=text,
        sentences=tuple(sentences),
        spans=tuple(spans),
    )


def select_statements(
    scene: Scene, kinds: Mapping[str, float], n_statements: int, rng: random.Random
) -> Iterator[Statement]:
    """Yield up to `n_statements` different true statements; kinds are drawn by weight until they run out."""
    supplies = {kind: true_statements(scene, kind, rng) for kind in kinds}
    while supplies and n_statements:
        kind = rng.choices(list(supplies), [kinds[kind] for kind in supplies])[0]
        statement = next(supplies[kind], None)
        if statement is None:
            del supplies[kind]
        else:
            n_statements -= 1
            yield statement


def _with_error(statement: Statement, scene: Scene, generator: Generator, rng: random.Random) -> Statement:
    types = ERROR_TYPES_BY_KIND[statement.kind]
    weights = [generator.place_errors[name] for name in types] if len(types) > 1 else None
    return corrupt(statement, scene, rng.choices(types, weights)[0], rng)


def _types(statement: Statement, label: Label) -> tuple[str, ...]:
    return (statement.error_type,) if label == "incorrect" and statement.error_type is not None else ()


def _vote(truth: Label, rng: random.Random) -> tuple[Label, Votes]:
    """Draw votes around `truth`: its label wins, or, for a small share, no label does (`unknown`)."""
    undecided = rng.random() < _UNDECIDED
    while True:
        votes = [_one_vote(truth, rng) for _ in range(_ANNOTATORS)]
        counts = Votes(*(votes.count(label) for label in ("correct", "incorrect", "unknown")))
        if undecided and max(counts.correct, counts.incorrect) * 2 <= _ANNOTATORS:
            return "unknown", counts
        if not undecided and votes.count(truth) * 2 > _ANNOTATORS:
            return truth, counts


def _one_vote(truth: Label, rng: random.Random) -> Label:
    draw = rng.random()
    if draw < _VOTE_RIGHT:
        return truth
    if draw < _VOTE_RIGHT + _VOTE_UNKNOWN:
        return "unknown"
    return "incorrect" if truth == "correct" else "correct"
