"""The input of one pass of a detector, and the layout of encoded rows in it.

Axes: `token` (caption tokens of a whole batch, caption after caption), `sentence` (of a whole batch), `slot` (a token's
place in its sentence), `row` (of the backbone's input), `position` (a token's place in its row).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from halspan.core.captions import Caption
from halspan.core.cost import Cost
from halspan.core.losses import Targets
from halspan.core.targets import CaptionTargets
from halspan.models.inputs.context import NO_BLOCK, PADDING, PROMPT
from halspan.models.inputs.packing import pack
from halspan.models.kept.features import Draft, Features, join
from halspan.models.model_spec import Context

_PIXELS = "pixel"  # how the names of images begin that only the vision tower reads


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedCaption:
    """The tokens of one caption that fit the window.

    Attributes:
        caption: The caption.
        ids: Token ids.
        offsets: The tokens' character ranges in the caption's text.
        token_sentence: Sentence that each token belongs to; -1 for none.
        unscored: Reason why a sentence gets no score; None for one with a score.
        targets: Training targets; None unless they were requested.
    """

    caption: Caption
    ids: Int[ndarray, "token"]
    offsets: Int[ndarray, "token 2"]
    token_sentence: Int[ndarray, "token"]
    unscored: tuple[str | None, ...]
    targets: CaptionTargets | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRow:
    """One image with its prompt, and at least one caption of it.

    Attributes:
        prompt: Token ids of the prompt, image placeholders included.
        token_inputs: Other inputs of the backbone with an entry for each token of the prompt; captions get 0.
        image_inputs: Inputs of the backbone that belong to the image, such as pixels.
        captions: Captions, in any order.
        features: What the text decoder gets of prompt and image, where it is kept; there are no pixels then.
        entry: Name under which the features are to be kept once a pass has shown them; empty for not at all.
    """

    prompt: Int[Tensor, "position"]
    token_inputs: dict[str, Int[Tensor, "position"]]
    image_inputs: dict[str, Tensor]
    captions: tuple[EncodedCaption, ...]
    features: Features = field(default_factory=dict)
    entry: str = ""

    @property
    def parts(self) -> dict[str, Tensor]:
        """Return what an entry holds beside features: all but captions and pixels."""
        small = {name: value for name, value in self.image_inputs.items() if not name.startswith(_PIXELS)}
        return (
            {"prompt": self.prompt}
            | {f"token.{name}": value for name, value in self.token_inputs.items()}
            | {f"image.{name}": value for name, value in small.items()}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The input of one pass of a detector.

    Attributes:
        inputs: Inputs of the backbone: `input_ids` and `position_ids` (row, position), pixels, and others of the
            family.
        segments: Number of each token's caption within its row, from 0; or PROMPT, PADDING.
        blocks: Block of each token, or NO_BLOCK; tokens of one block in a row see each other both ways.
        token_row: Row in which the state of a caption token is read.
        token_position: Position at which the state of a caption token is read.
        token_expectation: Position of the state that predicts the token. If captions are read both ways, as in masked
            language models, it is the token's own. Otherwise it is the one before it, as in causal models; for the
            first token of a caption, the last one of the prompt.
        sentence_tokens: Tokens of each sentence, padded with -1.
        captions: Captions, in the order of their tokens and sentences.
        offsets: Character ranges of each caption's tokens in its text.
        unscored: For each sentence of each caption, the reason why its score has no meaning; None for one that counts.
        targets: Training targets; None unless they were requested.
        features: What the text decoder gets of prompts and images, where it is kept; there are no pixels then.
        drafts: For each row, the entry that its features are to be kept in; empty where they are not.
        image_seconds: Time that decoding and processing its images took.
    """

    inputs: dict[str, Tensor]
    segments: Int[Tensor, "row position"]
    blocks: Int[Tensor, "row position"]
    token_row: Int[Tensor, "token"]
    token_position: Int[Tensor, "token"]
    token_expectation: Int[Tensor, "token"]
    sentence_tokens: Int[Tensor, "sentence slot"]
    captions: tuple[Caption, ...]
    offsets: tuple[Int[ndarray, "_ 2"], ...]
    unscored: tuple[tuple[str | None, ...], ...]
    targets: Targets | None
    features: Features = field(default_factory=dict)
    drafts: tuple[Draft, ...] = ()
    image_seconds: float = 0.0

    @property
    def tokens_per_caption(self) -> list[int]:
        """Return the number of the batch's tokens that each caption has."""
        return [len(offsets) for offsets in self.offsets]

    @property
    def sentences_per_caption(self) -> list[int]:
        """Return the number of the batch's sentences that each caption has."""
        return [len(unscored) for unscored in self.unscored]

    @property
    def size(self) -> int:
        """Return the tokens that the backbone reads, padding included."""
        return self.segments.numel()

    @property
    def cost(self) -> Cost:
        """Return the cost of the pass: one image per row, and all tokens except padding."""
        return Cost(len(self.segments), int((self.segments != PADDING).sum()), sum(self.sentences_per_caption))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Copy the tensors to a device."""
        targets = self.targets and self.targets.to(device, non_blocking=non_blocking)
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking), targets)

    def pin_memory(self) -> "Batch":
        """Copy the tensors to page-locked memory, from which a copy to a GPU need not block."""
        return self._map(torch.Tensor.pin_memory, self.targets and self.targets.pin_memory())

    def _map(self, move: Callable[[Tensor], Tensor], targets: Targets | None) -> "Batch":
        tensors = ("segments", "blocks", "token_row", "token_position", "token_expectation", "sentence_tokens")
        moved: dict[str, Any] = {name: move(getattr(self, name)) for name in tensors}
        for name in ("inputs", "features"):
            moved[name] = {key: move(tensor) for key, tensor in getattr(self, name).items()}
        return replace(self, targets=targets, **moved)


def collate(rows: Sequence[EncodedRow], *, context: Context, pack_tokens: int, grain: int = 1) -> Batch:
    """Lay out at least one row as one batch; rows and their captions keep their order.

    Args:
        rows: Encoded rows; all of them have features, or none.
        context: Part of its own caption that a token sees.
        pack_tokens: Largest number of tokens in a line in which captions share a prompt.
        grain: Number of tokens of which the padded length is a multiple.
    """
    lines: list[_Line] = []
    places: list[_Place] = []
    for row in rows:
        places += _lay_out(row, context, pack_tokens, lines)
    captions = [caption for row in rows for caption in row.captions]
    targets = [caption.targets for caption in captions if caption.targets is not None]
    return Batch(
        inputs=_join_inputs(lines, grain),
        segments=_pad([line.segments for line in lines], PADDING, grain),
        blocks=_pad([line.blocks for line in lines], NO_BLOCK, grain),
        token_row=_join([np.full(place.stop - place.start, place.line) for place in places]),
        token_position=_join([np.arange(place.start, place.stop) for place in places]),
        token_expectation=_join([_expectations(place, context) for place in places]),
        sentence_tokens=torch.from_numpy(_tokens_of_sentences(captions)),
        captions=tuple(caption.caption for caption in captions),
        offsets=tuple(caption.offsets for caption in captions),
        unscored=tuple(caption.unscored for caption in captions),
        targets=Targets.join(targets) if targets else None,
        features=join([line.row.features for line in lines]) if lines[0].row.features else {},
        drafts=tuple(_draft(line.row) for line in lines if line.row.entry),
    )


def _draft(row: EncodedRow) -> Draft:
    return Draft(name=row.entry, parts={name: value.numpy() for name, value in row.parts.items()})


def copies_of(context: Context) -> int:
    """Return the number of copies of a caption in its line."""
    return 2 if context == "echo" else 1


def lines_of(row: EncodedRow, *, context: Context, pack_tokens: int) -> list[EncodedRow]:
    """Divide a row into rows that `collate` lays out as one line each; captions keep their order within them."""
    lengths = [copies_of(context) * len(caption.ids) for caption in row.captions]
    bins = pack(lengths, pack_tokens - len(row.prompt))
    return [replace(row, captions=tuple(row.captions[member] for member in members)) for members in bins]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One row of the backbone's input: a prompt and the captions after it."""

    ids: Int[Tensor, "position"]
    positions: Int[Tensor, "position"]
    segments: Int[Tensor, "position"]
    blocks: Int[Tensor, "position"]
    row: EncodedRow


@dataclass(frozen=True, slots=True)
class _Place:
    """The places of one caption's states: positions `[start, stop)` of a line, and the one read before them."""

    line: int
    start: int
    stop: int
    before: int


def _lay_out(row: EncodedRow, context: Context, pack_tokens: int, lines: list[_Line]) -> list[_Place]:
    """Add a row's lines, and return the place of each of its captions."""
    copies = copies_of(context)
    lengths = [copies * len(caption.ids) for caption in row.captions]
    places = {}
    for members in pack(lengths, pack_tokens - len(row.prompt)):
        end = len(row.prompt)
        for member in members:
            end += lengths[member]
            start = end - len(row.captions[member].ids)
            places[member] = _Place(len(lines), start, end, before=start - 1 if copies > 1 else len(row.prompt) - 1)
        lines.append(_line(row, [row.captions[member] for member in members], context, copies))
    return [places[member] for member in range(len(lengths))]


def _expectations(place: _Place, context: Context) -> Int[ndarray, "_"]:
    positions = np.arange(place.start, place.stop)
    if context.startswith("bidirectional"):
        return positions
    return np.concatenate([[place.before], positions[:-1]])[: len(positions)]


def _line(row: EncodedRow, captions: Sequence[EncodedCaption], context: Context, copies: int) -> _Line:
    n_prompt = len(row.prompt)
    lengths = [copies * len(caption.ids) for caption in captions]
    return _Line(
        ids=_join([row.prompt.numpy(), *(np.tile(caption.ids, copies) for caption in captions)]),
        positions=_join([np.arange(n_prompt), *(n_prompt + np.arange(length) for length in lengths)]),
        segments=_join([np.full(n_prompt, PROMPT), np.repeat(np.arange(len(captions)), lengths)]),
        blocks=_join([np.full(n_prompt, NO_BLOCK), *_blocks(captions, context, copies)]),
        row=row,
    )


def _blocks(captions: Sequence[EncodedCaption], context: Context, copies: int) -> Iterator[Int[ndarray, "_"]]:
    first_sentence = 0
    for number, caption in enumerate(captions):
        if context == "bidirectional":
            yield np.full(len(caption.ids), number)
        elif context == "bidirectional_sentence":
            yield np.where(caption.token_sentence < 0, NO_BLOCK, first_sentence + caption.token_sentence)
            first_sentence += len(caption.unscored)
        else:
            yield np.full(copies * len(caption.ids), NO_BLOCK)


def _join_inputs(lines: Sequence[_Line], grain: int) -> dict[str, Tensor]:
    inputs = {
        "input_ids": _pad([line.ids for line in lines], 0, grain),
        "position_ids": _pad([line.positions for line in lines], 0, grain),
    }
    for name in lines[0].row.token_inputs:
        of_prompts = _pad([line.row.token_inputs[name] for line in lines], 0, 1)
        inputs[name] = F.pad(of_prompts, (0, inputs["input_ids"].shape[1] - of_prompts.shape[1]))
    for name in lines[0].row.image_inputs:
        inputs[name] = _join_images([line.row.image_inputs[name] for line in lines])
    return inputs


def _join_images(parts: Sequence[Tensor]) -> Tensor:
    """Join the images of several rows; missing tiles or pixels are padded with zeros, as model families do."""
    if len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))  # without padding, which would copy each of them once more
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    rooms = [[want - has for want, has in zip(shape, part.shape[1:], strict=True)] for part in parts]
    sides = [[side for room in reversed(rest) for side in (0, room)] for rest in rooms]
    return torch.cat([F.pad(part, side) for part, side in zip(parts, sides, strict=True)])


def _tokens_of_sentences(captions: Sequence[EncodedCaption]) -> Int[ndarray, "sentence slot"]:
    """Return each sentence's tokens, numbered through the batch; there is at least one slot."""
    n_sentences = [len(caption.unscored) for caption in captions]
    firsts = [0, *accumulate(n_sentences)]
    pairs = zip(captions, firsts[:-1], strict=True)
    sentence = np.concatenate([np.where(c.token_sentence < 0, -1, c.token_sentence + first) for c, first in pairs])
    tokens = np.argsort(sentence, kind="stable")[(sentence < 0).sum() :]
    counts = np.bincount(sentence[tokens], minlength=firsts[-1])
    slots = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((firsts[-1], max(1, counts.max())), -1)
    table[sentence[tokens], slots] = tokens
    return table


def _join(parts: Sequence[Int[ndarray, "_"]]) -> Int[Tensor, "_"]:
    return torch.from_numpy(np.concatenate(parts))


def _pad(parts: list[Int[Tensor, "_"]], value: int, grain: int) -> Int[Tensor, "row position"]:
    padded = pad_sequence(parts, batch_first=True, padding_value=value)
    return F.pad(padded, (0, -padded.shape[1] % grain), value=value)
