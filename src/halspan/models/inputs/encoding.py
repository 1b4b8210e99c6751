"""Encoding of images and captions; captions are tokenized separately, so offsets are exact."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from halspan.core.alignment import fit_offsets, range_of_token
from halspan.core.captions import Caption
from halspan.core.errors import ModelError
from halspan.core.targets import build_targets
from halspan.models.inputs.batch import Batch, EncodedCaption, EncodedRow, collate, copies_of, lines_of
from halspan.models.inputs.packing import fill
from halspan.models.model_spec import ModelSpec

__all__ = ["Batch", "EncodedCaption", "EncodedRow", "RowEncoder"]

_NOT_PASSED_ON = ("attention_mask", "labels")  # halspan makes its own
_MOST_CACHED = 32_768  # captions; about 10 kB each
_FLEX_GRAIN = 128  # tokens; the side of a block of torch's block masks


class RowEncoder:
    """Encoder of images and captions; it keeps tokenized captions for the next epoch.

    Args:
        processor: Processor of the backbone.
        spec: Prompt, context and window.
        taxonomy: Types of the detector, in the order of its logits.

    Raises:
        ModelError: The prompt does not show the image exactly once, or the image processor does not have a setting.
    """

    def __init__(self, processor: Any, spec: ModelSpec, taxonomy: Sequence[str]) -> None:
        self._processor = processor
        self._tokenizer = _tokenizer_of_captions(processor.tokenizer)
        self._spec = spec
        self._taxonomy = tuple(taxonomy)
        self._prompt = render_prompt(processor, spec.prompt)
        _check_image_settings(processor.image_processor, spec.image)
        self._grain = _FLEX_GRAIN if spec.attention == "flex" else 1
        self._cache: dict[tuple[Caption, bool], EncodedCaption] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is made of: a tokenizer that is pickled forgets how it reads special tokens in captions."""
        return RowEncoder, (self._processor, self._spec, self._taxonomy)

    @property
    def processor(self) -> Any:
        """Return the backbone's processor."""
        return self._processor

    @property
    def spec(self) -> ModelSpec:
        """Return the spec of the detector."""
        return self._spec

    @property
    def taxonomy(self) -> tuple[str, ...]:
        """Return the types of the detector, in the order of its logits."""
        return self._taxonomy

    @property
    def prompt(self) -> str:
        """Return the text before the captions, written out, with the image's placeholder in it."""
        return self._prompt

    def encode(self, image: Image.Image, captions: Sequence[Caption], *, targets: bool = True) -> EncodedRow:
        """Encode one image and at least one caption of it.

        A sentence that does not fit the window is left out, with all that follow it; `unscored` has the reason.

        Args:
            image: RGB image.
            captions: Captions in any order; none of them sees another.
            targets: Whether to build targets, which requires all types to be in the taxonomy.

        Raises:
            DataError: Targets are asked for and a type is not in the taxonomy.
            ModelError: The prompt alone does not fit the window.
        """
        return self._with_captions(self._encode_row(image), captions, targets)

    def encode_kept(
        self, entry: Mapping[str, Tensor], captions: Sequence[Caption], *, targets: bool = True
    ) -> EncodedRow:
        """Encode at least one caption of an image whose features are kept, as `encode` does.

        Args:
            entry: Parts of the row (`EncodedRow.parts`), and its features by names that begin with `features.`.
            captions: Captions in any order; none of them sees another.
            targets: Whether to build targets.
        """
        row = EncodedRow(
            prompt=entry["prompt"],
            token_inputs=_named(entry, "token."),
            image_inputs=_named(entry, "image."),
            captions=(),
            features=_named(entry, "features."),
        )
        return self._with_captions(row, captions, targets)

    def encode_whole(self, image: Image.Image, captions: Sequence[Caption]) -> tuple[EncodedRow, int]:
        """Encode one image and at least one caption of it, without targets; long captions are not cut.

        Nothing is cached, because the number of captions may be unlimited.

        Returns:
            The row, and its room: the largest number of caption tokens that fit the window after the prompt.

        Raises:
            ModelError: The prompt alone does not fit the window.
        """
        row = self._encode_row(image)
        whole = (self._build(caption, *self._tokenize(caption), targets=False) for caption in captions)
        return replace(row, captions=tuple(whole)), self._room(row)

    def lines(self, row: EncodedRow) -> list[EncodedRow]:
        """Divide a row into rows that are one line of the backbone's input; each one encodes the image again."""
        return lines_of(row, context=self._spec.context, pack_tokens=self._spec.pack_tokens)

    def collate(self, rows: Sequence[EncodedRow]) -> Batch:
        """Join at least one encoded row into a batch; either all or none of them have targets."""
        spec = self._spec
        return collate(rows, context=spec.context, pack_tokens=spec.pack_tokens, grain=self._grain)

    def passes(self, rows: Sequence[EncodedRow], *, tokens: int) -> tuple[Batch, ...]:
        """Join at least one encoded row into batches of at most `tokens` tokens each, padding included.

        A row stays whole where it fits; otherwise its captions are divided, and the image is encoded again. Only a
        caption that is too long alone makes a larger batch.
        """
        room = min(tokens, self._spec.pack_tokens)
        lines = [line for row in rows for line in lines_of(row, context=self._spec.context, pack_tokens=room)]
        alike = ([line for line in lines if bool(line.features) == kept] for kept in (False, True))
        return tuple(batch for group in alike for batch in self._fill(group, tokens))

    def _fill(self, lines: Sequence[EncodedRow], tokens: int) -> Iterator[Batch]:
        for members in fill([self.length(line) for line in lines], tokens):
            yield self.collate([lines[number] for number in members])

    def prompt_length(self, size: tuple[int, int]) -> int:
        """Return the tokens of the prompt with an image of some width and height in pixels.

        Raises:
            ModelError: The prompt alone does not fit the window.
        """
        return len(self._encode_row(Image.new("RGB", size)).prompt)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return the number of tokens of captions together, as often as the backbone reads them."""
        tokens = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return copies_of(self._spec.context) * sum(len(encoded) for encoded in tokens)

    def length(self, line: EncodedRow) -> int:
        """Return the tokens of a row that is one line, prompt included, as they are padded where it stands alone."""
        copies = copies_of(self._spec.context)
        n_tokens = len(line.prompt) + copies * sum(len(caption.ids) for caption in line.captions)
        return n_tokens + -n_tokens % self._grain

    def _with_captions(self, row: EncodedRow, captions: Sequence[Caption], targets: bool) -> EncodedRow:
        room = self._room(row)
        return replace(row, captions=tuple(self._encode_caption(caption, room, targets) for caption in captions))

    def _room(self, row: EncodedRow) -> int:
        """Return the most tokens of a caption after a prompt."""
        room = self._spec.max_tokens - len(row.prompt)
        if room < 1:
            raise ModelError(
                f"model.max_tokens: {self._spec.max_tokens} leaves no room for captions after a prompt of "
                f"{len(row.prompt)} tokens, the image included; raise it"
            )
        return room // copies_of(self._spec.context)

    def _encode_row(self, image: Image.Image) -> EncodedRow:
        """Encode a row without its captions."""
        inputs = self._encode_prompt(image)
        prompt = inputs.pop("input_ids")[0]
        per_token = {name for name, tensor in inputs.items() if tensor.shape == (1, len(prompt))}
        row = EncodedRow(
            prompt=prompt,
            token_inputs={name: inputs[name][0] for name in per_token},
            image_inputs={name: tensor for name, tensor in inputs.items() if name not in per_token},
            captions=(),
        )
        self._room(row)
        return row

    def _encode_prompt(self, image: Image.Image) -> dict[str, Any]:
        bos = self._processor.tokenizer.bos_token
        is_complete = bos is not None and self._prompt.startswith(bos)  # chat templates write it themselves
        try:
            inputs = self._processor(
                text=[self._prompt],
                images=[image],
                add_special_tokens=not is_complete,
                return_tensors="pt",
                images_kwargs=self._spec.image,
            )
        except MemoryError:
            raise
        except Exception as error:  # settings that fit nothing make processors raise nearly anything
            raise ModelError(
                f"model.backbone: the processor of {self._spec.backbone!r} fails on an image of {image.width} x "
                f"{image.height} pixels ({' '.join(str(error).split())[:200]}); repair its settings, or model.image"
            ) from error
        return {name: tensor for name, tensor in inputs.items() if name not in _NOT_PASSED_ON}

    def _encode_caption(self, caption: Caption, room: int, targets: bool) -> EncodedCaption:
        key = (caption, targets)
        whole = self._cache.get(key)
        if whole is None:
            if len(self._cache) >= _MOST_CACHED:
                self._cache.clear()
            whole = self._cache[key] = self._build(caption, *self._tokenize(caption), targets)
        if len(whole.ids) <= room:
            return whole
        kept = _cut(whole.token_sentence, room)
        return self._build(caption, whole.ids[:kept], whole.offsets[:kept], targets, cut_from=whole)

    def _tokenize(self, caption: Caption) -> tuple[Int[ndarray, "token"], Int[ndarray, "token 2"]]:
        try:
            tokens = self._tokenizer.encode(caption.text, add_special_tokens=False)
        except BaseException as error:  # a Rust panic is not an Exception
            if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
                raise
            problem = " ".join(str(error).split())[:200]
            raise ModelError(f"caption {caption.id!r}: the backbone's tokenizer fails on its text: {problem}") from None
        offsets = np.array(tokens.offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(tokens.ids, dtype=np.int64), fit_offsets(offsets, caption.text, caption.sentences)

    def _build(
        self,
        caption: Caption,
        ids: Int[ndarray, "token"],
        offsets: Int[ndarray, "token 2"],
        targets: bool,
        *,
        cut_from: EncodedCaption | None = None,
    ) -> EncodedCaption:
        token_sentence = range_of_token(offsets, caption.sentences, caption.text)
        return EncodedCaption(
            caption=caption,
            ids=ids,
            offsets=offsets,
            token_sentence=token_sentence,
            unscored=self._explain(token_sentence, len(caption.sentences), cut_from),
            targets=build_targets(caption, offsets, self._taxonomy) if targets else None,
        )

    def _explain(
        self, token_sentence: Int[ndarray, "token"], n_sentences: int, cut_from: EncodedCaption | None
    ) -> tuple[str | None, ...]:
        """Return the reason why a sentence has no tokens."""
        present = set(token_sentence.tolist())
        cut = set() if cut_from is None else set(cut_from.token_sentence.tolist()) - present
        too_late = f"does not fit the window of {self._spec.max_tokens} tokens"
        return tuple(
            None if sentence in present else too_late if sentence in cut else "the tokenizer finds no token in it"
            for sentence in range(n_sentences)
        )


def _tokenizer_of_captions(tokenizer: Any) -> Tokenizer:
    """Return a copy of the fast tokenizer behind a tokenizer, for captions; the original is not changed.

    Special tokens in a caption must stay text: an image placeholder there would require an image. A copy is needed
    because an argument of each call would switch the tokenizer of the prompts, possibly during a call of another
    thread.
    """
    own: Tokenizer = deepcopy(tokenizer.backend_tokenizer)
    own.encode_special_tokens = True
    own.no_truncation()
    own.no_padding()
    return own


def render_prompt(processor: Any, prompt: str) -> str:
    """Return the text before the captions.

    Args:
        processor: Processor with the family's image placeholder and its chat template, if it has one.
        prompt: Text of a user's turn; if it contains the image placeholder, the whole text itself.

    Raises:
        ModelError: There is no placeholder and no chat template, or the result does not hold the image exactly once.
    """
    placeholder = str(processor.image_token)
    text = prompt
    if placeholder not in prompt:
        if processor.chat_template is None:
            raise ModelError(
                f"model.prompt: {prompt!r} does not hold the image placeholder {placeholder!r}, and this processor has "
                "no chat template that would put it in; write it into the prompt"
            )
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    if text.count(placeholder) != 1:
        raise ModelError(
            f"model.prompt: {prompt!r} shows the image {text.count(placeholder)} times ({placeholder!r} in {text!r}); "
            "a row has exactly one image"
        )
    return text


def _check_image_settings(image_processor: Any, settings: Mapping[str, Any]) -> None:
    known = sorted(image_processor.valid_kwargs.__annotations__)
    if unknown := sorted(settings.keys() - set(known)):
        raise ModelError(
            f"model.image.{unknown[0]}: {type(image_processor).__name__} has no such setting; possible: "
            f"{', '.join(known)}"
        )


def _named(entry: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in entry.items() if name.startswith(prefix)}


def _cut(token_sentence: Int[ndarray, "token"], room: int) -> int:
    """Return the number of tokens before the first sentence that does not end within `room` tokens."""
    late = np.setdiff1d(token_sentence[room:], -1)
    starts_late = np.isin(token_sentence, late)
    return min(room, int(starts_late.argmax())) if starts_late.any() else room
