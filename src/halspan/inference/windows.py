"""Texts of any length: those longer than the backbone's window are read in overlapping windows and merged.

A window holds as many whole sentences as fit. Before them, it repeats whole sentences as context, up to a quarter of
the window. A sentence and its tokens are judged once, in the first window that holds them. A sentence that is longer
than the window is read in windows that overlap by half. A token then counts in the window in which the nearest cut is
farthest away or, if tokens only see what comes before them, in the first window that holds it. The sentence's score is
the highest of its windows', because one wrong word makes it incorrect.

Axes: `token` (of one caption).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from PIL.Image import Image

from halspan.core.captions import Caption
from halspan.core.cost import Cost
from halspan.core.errors import ModelError
from halspan.inference.forward import score_batch
from halspan.inference.scores import CaptionScores
from halspan.models.detector import SpanDetector
from halspan.models.inputs.batch import EncodedCaption, EncodedRow
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.inputs.packing import fill

CONTEXT_SHARE = 4  # context is at most a quarter of a window


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `[start, stop)` of a caption that are read together.

    Attributes:
        start: First token.
        stop: The token after the last one.
        counts_from: First token whose score counts.
        counts_to: The token after the last one whose score counts.
        sentences: Sentences whose score counts.
    """

    start: int
    stop: int
    counts_from: int
    counts_to: int
    sentences: range


def plan_windows(token_sentence: Int[ndarray, "token"], room: int, *, is_causal: bool) -> list[Window]:
    """Choose the windows of a caption.

    Args:
        token_sentence: Sentence that each token belongs to, in order; -1 for none.
        room: Largest number of tokens in a window, at least 1.
        is_causal: Whether a token sees only what comes before it.

    Returns:
        Windows in order, each with tokens of a sentence. All of these tokens count in exactly one of them; what belongs
        to no sentence (whitespace, and what stands between sentences) may be in none.
    """
    n_tokens = len(token_sentence)
    ranges = _sentence_ranges(token_sentence)
    if n_tokens <= room:
        return [Window(0, n_tokens, 0, n_tokens, range(max(ranges, default=-1) + 1))]
    windows: list[Window] = []
    numbers = list(ranges)
    place = 0
    while place < len(numbers):
        first, end = ranges[numbers[place]]
        last = place
        if end - first > room:
            pieces = _cut(numbers[place], first, end, room, is_causal=is_causal)
            windows += [piece for piece in pieces if (token_sentence[piece.start : piece.stop] >= 0).any()]
        else:
            before = [ranges[number][0] for number in numbers[:place]]
            start = _context_start([0, *before], first, min(room // CONTEXT_SHARE, room - (end - first)))
            while last + 1 < len(numbers) and ranges[numbers[last + 1]][1] - start <= room:
                last += 1
            stop = ranges[numbers[last]][1]
            windows.append(Window(start, stop, first, stop, range(numbers[place], numbers[last] + 1)))
        place = last + 1
    return windows


def encode_texts(encoder: RowEncoder, image: Image, captions: Sequence[Caption], *, is_causal: bool) -> "EncodedTexts":
    """Encode at least one caption of an image, of any length, without the image itself kept.

    Args:
        encoder: Encoder of the detector.
        image: RGB image.
        captions: Captions of it.
        is_causal: Whether a token sees only what comes before it.

    Raises:
        ModelError: The prompt alone does not fit the window, or the processor fails.
    """
    row, room = encoder.encode_whole(image, captions)
    reads = [_Read(whole, plan_windows(whole.token_sentence, room, is_causal=is_causal)) for whole in row.captions]
    owners = {id(part): (read, number) for read in reads for number, part in enumerate(read.parts)}
    every = replace(row, captions=tuple(part for read in reads for part in read.parts))
    lines = [
        _Line(line, [owners[id(part)] for part in line.captions], encoder.length(line))
        for line in (encoder.lines(every) if every.captions else ())
    ]
    return EncodedTexts(reads, lines)


def score_texts(
    detector: SpanDetector,
    encoder: RowEncoder,
    texts: Sequence["EncodedTexts"],
    *,
    batch_tokens: int,
    is_failure_apart: bool = False,
    on_pass: Callable[[Cost], None] | None = None,
) -> list[CaptionScores | ModelError]:
    """Score encoded captions; lines of similar length share a forward pass.

    Args:
        detector: In evaluation mode.
        encoder: Its encoder.
        texts: Encoded captions of one or more images.
        batch_tokens: Number of tokens in a forward pass, padding and images included; a longer line has its own pass.
        is_failure_apart: Whether the lines of a pass that fails are scored alone, and captions of a line that fails
            have an error in the place of their scores.
        on_pass: Function that is called with the cost of each forward pass.

    Returns:
        The scores of each caption, in order.

    Raises:
        ModelError: Scores are not finite numbers.
    """
    run = _Passes(detector, encoder, on_pass)
    lines = [line for encoded in texts for line in encoded.lines]
    for members in fill([line.n_tokens for line in lines], batch_tokens):
        together = [lines[number] for number in members]
        try:
            run(together)
        except ModelError:
            if not is_failure_apart:
                raise
            for line in together:
                _score_alone(run, line)
    return [read.error or read.join() for encoded in texts for read in encoded.reads]


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """The captions of an image, encoded.

    Attributes:
        reads: The captions, in order.
        lines: The lines of the backbone's input that hold their windows.
    """

    reads: "list[_Read]"
    lines: "list[_Line]"

    @property
    def n_tokens(self) -> int:
        """Return the tokens of the lines."""
        return sum(line.n_tokens for line in self.lines)

    @property
    def n_bytes(self) -> int:
        """Return the memory that is held for the image and the tokens of its captions, in bytes."""
        images = self.lines[0].row.image_inputs.values() if self.lines else ()
        arrays = [array for read in self.reads for array in (read.whole.ids, read.whole.offsets)]
        return sum(image.nbytes for image in images) + sum(array.nbytes for array in arrays)


@dataclass(slots=True)
class _Read:
    """A caption in progress."""

    whole: EncodedCaption
    windows: list[Window]
    is_cut: bool = field(init=False)
    parts: list[EncodedCaption] = field(init=False)
    scores: dict[int, CaptionScores] = field(default_factory=dict)
    error: ModelError | None = None

    def __post_init__(self) -> None:
        n_tokens = len(self.whole.ids)
        self.is_cut = [(window.start, window.stop) for window in self.windows] != [(0, n_tokens)]
        self.parts = [_part(self.whole, window) for window in self.windows] if self.is_cut else [self.whole]

    def count_sentences(self, number: int) -> int:
        """Count the sentences that a window is the first to score."""
        before = self.windows[number - 1].sentences if number else ()
        new = (index for index in self.windows[number].sentences if index not in before)
        return sum(self.whole.unscored[index] is None for index in new)

    def join(self) -> CaptionScores:
        """Join the scores of the windows."""
        whole = self.whole
        if not self.is_cut:
            return self.scores[0]
        kept, token, types = [np.arange(0)], [np.zeros(0, np.float32)], []
        sentence: dict[int, float] = {}
        for number, window in enumerate(self.windows):
            scores = self.scores[number]
            inside = slice(window.counts_from - window.start, window.counts_to - window.start)
            kept.append(np.arange(window.counts_from, window.counts_to))
            token.append(scores.token_logit[inside])
            types.append(scores.p_type[inside])
            first = _first_sentence(whole, window)
            for index in window.sentences:
                logit = scores.sentence_logit[index - first]
                if logit is not None:
                    sentence[index] = max(logit, sentence.get(index, logit))
        return CaptionScores(
            caption=whole.caption,
            offsets=whole.offsets[np.concatenate(kept)],
            token_logit=np.concatenate(token),
            p_type=np.concatenate(types) if types else np.zeros((0, 1), np.float32),
            sentence_logit=tuple(sentence.get(index) for index in range(len(whole.unscored))),
            unscored=whole.unscored,
        )


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the backbone's input, with the windows that it holds."""

    row: EncodedRow
    owners: list[tuple[_Read, int]]
    n_tokens: int


class _Passes:
    """Forward passes of a detector in evaluation mode."""

    def __init__(self, detector: SpanDetector, encoder: RowEncoder, on_pass: Callable[[Cost], None] | None) -> None:
        self._detector = detector
        self._encoder = encoder
        self._on_pass = on_pass

    def __call__(self, lines: Sequence[_Line]) -> None:
        """Score lines together."""
        device: torch.device = next(self._detector.parameters()).device
        batch = self._encoder.collate([line.row for line in lines]).to(device)
        owners = [owner for line in lines for owner in line.owners]
        scored = score_batch(self._detector, batch)
        if self._on_pass is not None:
            n_sentences = sum(read.count_sentences(number) for read, number in owners)
            self._on_pass(replace(batch.cost, sentences=n_sentences))
        for (read, number), scores in zip(owners, scored, strict=True):
            read.scores[number] = scores


def _score_alone(run: _Passes, line: _Line) -> None:
    """Score one line; if that fails, its captions have failed."""
    try:
        run([line])
    except ModelError as error:
        for read, _ in line.owners:
            read.error = error


def _sentence_ranges(token_sentence: Int[ndarray, "token"]) -> dict[int, tuple[int, int]]:
    """Return the tokens `[first, end)` of each sentence that has tokens, in order."""
    places = np.flatnonzero(token_sentence >= 0)
    numbers, firsts, counts = np.unique(token_sentence[places], return_index=True, return_counts=True)
    lasts = places[firsts + counts - 1]
    triples = zip(numbers.tolist(), places[firsts].tolist(), lasts.tolist(), strict=True)
    return {number: (first, last + 1) for number, first, last in triples}


def _context_start(starts: Sequence[int], first: int, most: int) -> int:
    """Return where a window begins: at the earliest sentence start within a number of tokens before its own."""
    return next((start for start in starts if first - start <= most), first)


def _cut(sentence: int, first: int, end: int, room: int, *, is_causal: bool) -> Iterator[Window]:
    """Cut one sentence into windows that overlap by half."""
    starts = [*range(first, end - room, max(1, room // 2)), end - room]
    bounds = [first]
    for start, following in pairwise(starts):
        bounds.append(start + room if is_causal else (following + start + room) // 2)
    bounds.append(end)
    for start, (counts_from, counts_to) in zip(starts, pairwise(bounds), strict=True):
        yield Window(start, start + room, counts_from, counts_to, range(sentence, sentence + 1))


def _part(whole: EncodedCaption, window: Window) -> EncodedCaption:
    """Return the tokens of a window; its sentences are numbered from its first one."""
    inside = slice(window.start, window.stop)
    first = _first_sentence(whole, window)
    token_sentence = np.where(whole.token_sentence[inside] < 0, -1, whole.token_sentence[inside] - first)
    present = set(token_sentence.tolist())
    n_sentences = max(present) + 1
    return replace(
        whole,
        ids=whole.ids[inside],
        offsets=whole.offsets[inside],
        token_sentence=token_sentence,
        unscored=tuple(None if index in present else whole.unscored[first + index] for index in range(n_sentences)),
    )


def _first_sentence(whole: EncodedCaption, window: Window) -> int:
    numbers = whole.token_sentence[window.start : window.stop]
    return int(numbers[numbers >= 0].min())
