"""Training data of the shapes backbone: images of scenes that no corpus holds, with true captions, tokenized."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from halspan.data.shapes.captioning import select_statements
from halspan.data.shapes.generators import GENERATORS
from halspan.data.shapes.language import PLACES, Statement, Style, word
from halspan.data.shapes.render import IMAGE_PIXELS, render
from halspan.data.shapes.scenes import GRID, PLAIN_SHAPES, Scene, sample_scene

STREAM = "pretraining"
"""Prefix of every random seed here; corpora draw their scenes from streams of other names."""

IMAGE_TOKENS = GRID**2
SENTENCES_PER_ROW = 12
CAPTION_LENGTHS = (1, 1, 1, 1, 1, 3)  # sentences
CAUSAL_SHARE = 0.4
THINGS_KEPT = (1, 2, 2, 3, 3, 4, 4, 9, 9, 9)  # at most so many things of a scene; a curriculum in every batch
HIDDEN_SHARE = 0.3
BLURRED_SHARE = 0.7  # of the slots that are not hidden
BLUR = (0.5, 12.0)  # standard deviation of the noise over that of the entries of embeddings; drawn evenly in its log
MOST_CELL_WORDS = 6
KIND_WEIGHTS = {
    "place": 8.0, "presence": 1.0, "number": 1.2, "relation": 3.0, "direction": 1.2, "text": 1.2, "background": 0.3,
}  # fmt: skip
SLOTS = {
    "place": ("color", "shape", "size", "texture", "place"),
    "presence": ("color", "shape", "size", "texture"),
    "number": ("number",),
    "relation": ("relation", "color", "shape", "color2", "shape2"),
    "direction": ("direction",),
    "text": ("letter",),
    "background": ("background",),
}
SPECIAL_TOKENS = {"pad_token": "<pad>", "mask_token": "<mask>", "eos_token": "<eos>", "image_token": "<image>"}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on true captions in every style; common words become one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=3,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(f"{STREAM}/tokenizer")
    scenes = [sample_scene(rng) for _ in range(3000)]
    texts = [
        " ".join(sentence for _, sentence, _ in worded(scene, dict.fromkeys(KIND_WEIGHTS, 1.0), 12, rng))
        for scene in scenes
    ]
    tokenizer.train_from_iterator([text for text in texts for _ in range(2)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens={"image_token": SPECIAL_TOKENS["image_token"]},
        **{name: token for name, token in SPECIAL_TOKENS.items() if name != "image_token"},
    )


@dataclass
class Row:
    """One image with several captions: token ids, caption of each token (from 1), targets, and which count most."""

    pixels: Tensor
    causal: bool
    cells: list[list[int]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    caption: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    salient: list[bool] = field(default_factory=list)
    meant: list[int] = field(default_factory=list)
    blur: list[float] = field(default_factory=list)


def worded(
    scene: Scene, kinds: Mapping[str, float], count: int, rng: random.Random
) -> Iterator[tuple[Statement, str, dict[str, tuple[int, int]]]]:
    """Yield true sentences in random styles, each with its statement and the characters of each of its slots."""
    for statement in select_statements(scene, kinds, count, rng):
        style, pattern = rng.choice(GENERATORS).style, rng.getrandbits(32)
        spans, sentence = dict[str, tuple[int, int]](), ""
        for slot in SLOTS[statement.kind]:
            if slot in statement.slots:
                marked = replace(statement, wrong=(slot,))  # wording then tells where it is; nothing becomes wrong
                sentence, span = word(marked, style, random.Random(pattern))
                if span is not None:  # this wording names the slot
                    spans[slot] = span
        yield statement, sentence, spans


def cells_of(statement: Statement, scene: Scene) -> dict[str, int]:
    """Return, for each slot that speaks of things, the cells of these things, as bits of a number."""
    slots = statement.slots
    first = {name: slots[name] for name in ("color", "shape", "size", "texture") if name in slots}
    if statement.kind in ("direction", "text"):
        first["shape"] = "arrow" if statement.kind == "direction" else "card"
    second = {"color": slots["color2"], "shape": slots["shape2"]} if statement.kind == "relation" else {}
    found = 1 << PLACES.index(slots["place"]) if statement.kind == "place" else _matching(first, scene)
    told = [name for name in slots if name not in ("relation", "background", "color2", "shape2")]
    return dict.fromkeys(told, found) | dict.fromkeys(("color2", "shape2") if second else (), _matching(second, scene))


def _matching(looks: Mapping[str, str], scene: Scene) -> int:
    return sum(
        1 << cell for cell, thing in scene.things() if all(getattr(thing, name) == v for name, v in looks.items())
    )


class TrueCaptions(IterableDataset[Row]):
    """Endless rows of true captions of scenes drawn from the pre-training stream, from row `start` on."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, start: int) -> None:
        self.tokenizer, self.start = tokenizer, start

    def __iter__(self) -> Iterator[Row]:
        index = self.start
        while True:
            yield self.row(random.Random(f"{STREAM}/{index}"))
            index += 1

    def row(self, rng: random.Random) -> Row:
        """Draw a scene and word captions of one to six sentences about it, for one of the two objectives."""
        scene = thinned(sample_scene(rng), rng)
        causal = rng.random() < CAUSAL_SHARE
        row = Row(pixels_of(scene, rng), causal, cell_words(scene, rng.choice(GENERATORS).style, self.tokenizer))
        caption, room = 0, 0
        for statement, sentence, spans in worded(scene, KIND_WEIGHTS, SENTENCES_PER_ROW, rng):
            if room == 0:
                caption, room = caption + 1, rng.choice(CAPTION_LENGTHS)
            room -= 1
            hidden = [slot for slot in spans if rng.random() < HIDDEN_SHARE] or [rng.choice(list(spans))]
            blurs = {slot: blur(rng) for slot in spans if slot not in hidden and rng.random() < BLURRED_SHARE}
            asked, blurs = (list(spans), {}) if causal else (hidden, blurs)
            meant = cells_of(statement, scene)
            self.append(row, sentence, spans, asked=asked, blurs=blurs, meant=meant, caption=caption)
        return row

    def append(
        self,
        row: Row,
        sentence: str,
        spans: Mapping[str, tuple[int, int]],
        *,
        asked: Collection[str],
        blurs: Mapping[str, float],
        meant: Mapping[str, int],
        caption: int,
    ) -> None:
        """Add a sentence to a caption of the row; words of `asked` slots count most, and masked rows hide them.

        Words of slots with a blur are seen through that much noise, and asked for too.
        """
        before = " " if row.caption and row.caption[-1] == caption else ""
        encoding = self.tokenizer(before + sentence, return_offsets_mapping=True, add_special_tokens=False)
        for token, (first, last) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            inside = (
                name for name, (start, end) in spans.items() if first < end + len(before) and last > start + len(before)
            )
            slot = next(inside, "")
            salient = slot in asked
            row.ids.append(self.tokenizer.mask_token_id if salient and not row.causal else token)
            row.labels.append(token if salient or row.causal or slot in blurs else -100)
            row.blur.append(blurs.get(slot, 0.0))
            row.salient.append(salient)
            row.meant.append(0 if row.causal else meant.get(slot, 0))
            row.caption.append(caption)


def blur(rng: random.Random) -> float:
    """Draw how much noise there is in an embedding, relative to the spread of its entries."""
    return math.exp(rng.uniform(math.log(BLUR[0]), math.log(BLUR[1])))


def thinned(scene: Scene, rng: random.Random) -> Scene:
    """Take things away until few are left: with one thing in sight, where it is and what it is need no binding."""
    kept = rng.choice(THINGS_KEPT)
    cells = [cell for cell, _ in scene.things()]
    gone = set(rng.sample(cells, max(0, len(cells) - kept)))
    return replace(scene, cells=tuple(None if cell in gone else thing for cell, thing in enumerate(scene.cells)))


def pixels_of(scene: Scene, rng: random.Random) -> Tensor:
    """Render a scene as the processor would: channels first, scaled to [-1, 1]."""
    image = torch.frombuffer(bytearray(render(scene, rng).tobytes()), dtype=torch.uint8)
    return image.view(IMAGE_PIXELS, IMAGE_PIXELS, 3).permute(2, 0, 1).float() / 127.5 - 1


def cell_words(scene: Scene, style: Style, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Return, for each cell, a style's words for where it is and for what stands there, as token ids."""
    cells = []
    for place, thing in zip(PLACES, scene.cells, strict=True):
        values = [place]
        if thing is not None and thing.direction is not None:
            values = [thing.shape, thing.color, thing.direction]  # "left" would be said of the place too
        elif thing is not None:
            values += [thing.shape, thing.color]
        if thing is not None and thing.shape in PLAIN_SHAPES:
            values += [thing.size] if thing.texture == "plain" else [thing.size, thing.texture]
        words = [part for value in values for part in style.word(value).split() if part != "corner"]
        ids = [_word_id(f" {text}", tokenizer) for text in words]
        cells.append(ids if thing is None or thing.letter is None else [*ids, _word_id(thing.letter, tokenizer)])
    return cells


def _word_id(text: str, tokenizer: PreTrainedTokenizerFast) -> int:
    return int(tokenizer(text, add_special_tokens=False)["input_ids"][0])


def collate(rows: list[Row]) -> dict[str, Tensor]:
    """Pad rows to one length: image tokens first, then the captions, each at the positions after the image."""
    length = IMAGE_TOKENS + max(len(row.ids) for row in rows)
    ids, labels = torch.zeros(len(rows), length, dtype=torch.long), torch.full((len(rows), length), -100)
    caption, positions = torch.full((len(rows), length), -1), torch.arange(length).repeat(len(rows), 1)
    salient = torch.zeros(len(rows), length, dtype=torch.bool)
    meant, blurs = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length)
    for i, row in enumerate(rows):
        filled = slice(IMAGE_TOKENS, IMAGE_TOKENS + len(row.ids))
        ids[i, filled], labels[i, filled] = torch.tensor(row.ids), torch.tensor(row.labels)
        caption[i, :IMAGE_TOKENS], caption[i, filled] = 0, torch.tensor(row.caption)
        salient[i, filled], meant[i, filled] = torch.tensor(row.salient), torch.tensor(row.meant)
        blurs[i, filled] = torch.tensor(row.blur)
        starts = Counter(row.caption)
        positions[i, filled] = torch.cat([torch.arange(n) for n in starts.values()]) + IMAGE_TOKENS
    causal = torch.tensor([row.causal for row in rows])
    cells = torch.full((len(rows), IMAGE_TOKENS, MOST_CELL_WORDS), -100)
    for i, row in enumerate(rows):
        for cell, words in enumerate(row.cells):
            cells[i, cell, : len(words)] = torch.tensor(words)
    return {
        "ids": ids,
        "labels": labels,
        "salient": salient,
        "meant": meant,
        "blur": blurs,
        "caption": caption,
        "positions": positions,
        "causal": causal,
        "cells": cells,
        "pixels": torch.stack([row.pixels for row in rows]),
    }
