"""Probable mistakes in readable captions: annotation off by one, misspelled types, missing labels, ..."""

import logging
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from halspan.core.captions import Caption, Sentence, Span
from halspan.core.checks import find_meant
from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.data.corpus import Corpus
from halspan.data.inspection.range_checks import WordMap

logger = logging.getLogger(__name__)

MOST_LEFT_OUT = 0.1  # share of a text's letters that may lie outside of its sentences

Check = Callable[[Caption], Iterator["Problem"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in a caption or in a whole corpus that is valid but probably a mistake.

    Attributes:
        kind: Kind of problem, in the plural, for counts.
        message: The value seen and why it is probably wrong.
        suggestion: The value that was probably meant, or what to do; empty if there is nothing to suggest.
        id: The caption's; empty if the problem is the whole corpus's.
        line: Line of the corpus's file; None if it is not known.
    """

    kind: str
    message: str
    suggestion: str = ""
    id: str = ""
    line: int | None = None

    def __str__(self) -> str:
        places = ([f"line {self.line}"] if self.line is not None else []) + ([self.id] if self.id else [])
        where = f"{', '.join(places)}: " if places else ""
        return f"{where}{self.message}" + (f"; {self.suggestion}" if self.suggestion else "")


def find_problems(corpus: Corpus) -> list[Problem]:
    """Find probable mistakes in a corpus without reading its images: first those of the whole, then by caption."""
    captions = corpus.captions
    checks = [check_spans, check_sentences, check_image_path]
    if any(_is_judged(sentence) for caption in captions for sentence in caption.sentences):
        checks.append(check_labels)
    found = list(check_whole(captions))
    for caption in captions:
        found += [replace(problem, line=corpus.lines.get(caption.id)) for check in checks for problem in check(caption)]
    for problem in (*check_types(captions), *check_repetitions(captions)):
        found.append(replace(problem, line=corpus.lines.get(problem.id)))
    return found


def group_by_kind(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """Group problems by kind, in the order in which the kinds appear."""
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.kind, []).append(problem)
    return groups


def log_problems(corpus: Corpus) -> None:
    """Warn of probable mistakes in a corpus: the number of each kind, and its first example."""
    groups = group_by_kind(find_problems(corpus))
    for kind, found in groups.items():
        logger.warning("%s: %d, first: %s", kind, len(found), found[0])
    if any(len(found) > 1 for found in groups.values()):
        logger.warning("halspan data check --all problems.csv lists every one of them")


def check_whole(captions: Sequence[Caption]) -> Iterator[Problem]:
    """Find reasons why a whole corpus is unfit for training: no labels, one class, one generator, ..."""
    labels = Counter(sentence.label for caption in captions for sentence in caption.sentences if _is_judged(sentence))
    if not labels:
        yield Problem(
            kind="no labels",
            message="no sentence is labeled correct or incorrect, so there is nothing to learn or to judge by",
            suggestion="give sentences a `label`",
        )
    elif len(labels) == 1 and None not in labels:
        (label,) = labels
        yield Problem(
            kind="one class",
            message=f"all {labels[label]} labeled sentences are {label}, so there is nothing to tell apart",
            suggestion="label sentences of the other class too",
        )
    generators = dict.fromkeys(caption.generator for caption in captions)
    if len(generators) == 1:
        yield Problem(
            kind="one generator",
            message=f"all captions are by {next(iter(generators))!r}, so no generator can be held out",
            suggestion="name in `generator` what wrote each caption, or painted each image",
        )
    yield from _check_generators(captions)


def check_spans(caption: Caption) -> Iterator[Problem]:
    """Find spans that cut words, or that lie in text without an error by its labels."""
    words = WordMap(caption.text)
    for index, span in enumerate(caption.spans):
        name, shown = f"spans[{index}]", words.show(span.start, span.end)
        if not words.fits(span.start, span.end):
            meant = words.suggest(span.start, span.end)
            yield Problem(
                kind="spans off their words",
                id=caption.id,
                message=f"{name}: {shown} {'cuts a word' if words.cuts(span.start, span.end) else 'takes a space'}",
                suggestion="" if meant == (span.start, span.end) else f"probably {words.show(*meant)}",
            )
        yield from _check_place(caption, span, f"{name}: {shown}")


def check_sentences(caption: Caption) -> Iterator[Problem]:
    """Find sentences that cut words, and text that no sentence covers."""
    words = WordMap(caption.text)
    for index, sentence in enumerate(caption.sentences):
        if words.cuts(sentence.start, sentence.end):
            start, end = words.widen(sentence.start, sentence.end)
            yield Problem(
                kind="sentences that cut a word",
                id=caption.id,
                message=f"sentences[{index}]: [{sentence.start}, {sentence.end}) begins or ends inside a word",
                suggestion=f"probably [{start}, {end})",
            )
    left_out = words.find_left_out(caption.sentences)
    if left_out and len(left_out) > MOST_LEFT_OUT * len(words.words):
        start, end = left_out[0]
        yield Problem(
            kind="sentences that leave out text",
            id=caption.id,
            message=f"{len(left_out)} of {len(words.words)} words are in no sentence, from {words.show(start, end)} on",
            suggestion="add the sentences that are missing, labeled unknown where they were not judged",
        )


def check_labels(caption: Caption) -> Iterator[Problem]:
    """Find labels that contradict the types or the votes beside them."""
    for index, sentence in enumerate(caption.sentences):
        name = f"sentences[{index}]"
        if sentence.types and sentence.label != "incorrect" and (sentence.label is not None or sentence.target is None):
            yield Problem(
                kind="types of sentences that are not incorrect",
                id=caption.id,
                message=f"{name}: {', '.join(sentence.types)} of a sentence labeled {sentence.label or 'not at all'}",
                suggestion="label it incorrect, or leave the types out",
            )
        if winner := sentence.outvoted_by:
            yield Problem(
                kind="votes against the label",
                id=caption.id,
                message=f"{name}: labeled {sentence.label}, but most votes say {winner}",
                suggestion=f"probably {winner}; training takes the votes, judging the label",
            )

    words = WordMap(caption.text)
    for span in caption.spans:
        if any(s.label is None and s.target is None for s in _touched(caption, span).values()):
            yield Problem(
                kind="spans in sentences without a label",
                id=caption.id,
                message=f"{words.show(span.start, span.end)} is in a sentence without a label, so it is not used",
                suggestion="label the sentence incorrect",
            )


def check_image_path(caption: Caption) -> Iterator[Problem]:
    r"""Find image paths in the notation of Windows."""
    if "\\" in caption.image:
        yield Problem(
            kind="image paths with backslashes",
            id=caption.id,
            message=f"image: {caption.image!r} is one name, not a path, except on Windows",
            suggestion=f"probably {caption.image.replace(chr(92), '/')!r}",
        )


def check_types(captions: Sequence[Caption]) -> Iterator[Problem]:
    """Find types that are probably misspelled forms of AlignBench's or of more frequent ones, each once."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for caption in captions:
        for name in (*(t for s in caption.sentences for t in s.types), *(s.type for s in caption.spans if s.type)):
            first.setdefault(name, caption.id)
            counts[name] += 1
    spellings = _most_frequent_spelling(counts)
    for name, count in counts.items():
        if (meant := _meant_type(name, spellings)) is not None:
            yield Problem(
                kind="types that are probably misspelled",
                id=first[name],
                message=f"type {name!r}, {count} in all, is a class of its own",
                suggestion=f"probably {meant!r}",
            )


def check_repetitions(captions: Sequence[Caption]) -> Iterator[Problem]:
    """Find captions that repeat another caption of the same image."""
    seen: dict[tuple[str, str, str], str] = {}
    for caption in captions:
        first = seen.setdefault((caption.image, caption.generator, caption.text), caption.id)
        if first != caption.id:
            yield Problem(
                kind="captions that repeat another one",
                id=caption.id,
                message=f"image, generator and text are those of {first!r}",
                suggestion="keep one of the two, or join their annotation",
            )


def _check_generators(captions: Sequence[Caption]) -> Iterator[Problem]:
    """Find generators that differ only in case or spaces, each once."""
    counts = Counter(caption.generator for caption in captions)
    main = _most_frequent_spelling(counts)
    for name in counts:
        if (meant := main[_plain(name)]) != name:
            yield Problem(
                kind="generators that are probably misspelled",
                message=f"generator {name!r}, {counts[name]} captions, counts as another one than {meant!r}",
                suggestion=f"probably {meant!r}",
            )


def _check_place(caption: Caption, span: Span, shown: str) -> Iterator[Problem]:
    """Check that a span lies in text that the labels call incorrect."""
    touched = _touched(caption, span)
    if not touched:
        yield Problem(
            kind="spans outside of the sentences",
            id=caption.id,
            message=f"{shown} is in no sentence",
            suggestion="add its sentence, or correct the span",
        )
    for index, sentence in touched.items():
        if sentence.label == "correct" and not _only_space(caption.text, span, sentence):
            yield Problem(
                kind="spans in correct sentences",
                id=caption.id,
                message=f"{shown} is in sentences[{index}], which is labeled correct",
                suggestion="label the sentence incorrect, or correct the span",
            )


def _touched(caption: Caption, span: Span) -> dict[int, Sentence]:
    """Return the indexes of the sentences that share characters with a span."""
    first = bisect_right(caption.sentences, span.start, key=lambda sentence: sentence.end)  # in order and disjoint
    last = bisect_left(caption.sentences, span.end, key=lambda sentence: sentence.start)
    return dict(zip(range(first, last), caption.sentences[first:last], strict=True))


def _only_space(text: str, span: Span, sentence: Sentence) -> bool:
    return not text[max(span.start, sentence.start) : min(span.end, sentence.end)].strip()


def _meant_type(name: str, spellings: Mapping[str, str]) -> str | None:
    """Return the type that a name probably means: one of AlignBench's, or one with other case or spaces."""
    if name in HALLUCINATION_TYPES:
        return None
    if meant := find_meant(name, HALLUCINATION_TYPES):
        return meant
    main = spellings[_plain(name)]
    return main if main != name else None


def _most_frequent_spelling(counts: Mapping[str, int]) -> dict[str, str]:
    """Return the most frequent of the names that differ only in case or spaces."""
    return {_plain(name): name for name, _ in sorted(counts.items(), key=lambda item: item[1])}


def _plain(name: str) -> str:
    return "".join(name.split()).casefold()


def _is_judged(sentence: Sentence) -> bool:
    return sentence.label in ("correct", "incorrect") or sentence.target is not None
