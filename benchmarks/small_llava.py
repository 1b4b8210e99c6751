"""A small LLaVA with random weights and many image tokens, and captions of random words for it, all made offline."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from halspan.core.captions import Caption, Sentence, Span
from halspan.models.model_spec import LoraSpec, ModelSpec

PROMPT = "<image> which words of this description does the image contradict"
PATCH = 16  # pixels
TAXONOMY = ("Attribute", "Object")
WORDS = [f"{first}{middle}{last}" for first in "bdfgklmnprst" for middle in "aeiou" for last in "lmnrst"]
VISION = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 64,
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is scored or trained on.

    Attributes:
        image_tokens: Tokens of an image; a square.
        captions: Captions of an image.
        sentences: Sentences of a caption.
        words: Tokens of a sentence, its full stop included.
    """

    image_tokens: int = 576
    captions: int = 6
    sentences: int = 6
    words: int = 20

    @property
    def edge(self) -> int:
        """Return the side of an image in pixels."""
        return math.isqrt(self.image_tokens) * PATCH

    def describe(self) -> str:
        """Describe it in words."""
        return (
            f"{self.image_tokens:,} image tokens, {self.captions} captions of {self.sentences} sentences of "
            f"{self.words} tokens"
        )


def save_backbone(
    folder: Path,
    work: Work,
    *,
    text: Mapping[str, Any] = TEXT,
    vision: Mapping[str, Any] = VISION,
    positions: int = 8192,
) -> str:
    """Write the backbone and its processor, and describe it."""
    tokenizer = _tokenizer()
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**vision, image_size=work.edge, patch_size=PATCH, vision_use_head=False),
        text_config=Qwen3Config(
            **text, vocab_size=len(tokenizer), max_position_embeddings=positions, tie_word_embeddings=True
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        random_weights=True,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": work.edge, "width": work.edge})
    LlavaProcessor(images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="full").save_pretrained(folder)
    towers = (model.model.vision_tower, model.model.language_model)
    vision_size, text_size = (sum(p.numel() for p in tower.parameters()) / 1e6 for tower in towers)
    return (
        f"a LLaVA with random weights (vision tower of {vision_size:.1f} M parameters, text decoder of "
        f"{text_size:.1f} M)"
    )


def make_spec(folder: Path, **changes: Any) -> ModelSpec:
    """Make the spec of a detector in float32."""
    settings: dict[str, Any] = {
        "backbone": str(folder),
        "prompt": PROMPT,
        "context": "causal",
        "max_tokens": 4096,
        "pack_tokens": 4096,
        "dtype": "float32",
        "attention": "sdpa",
        "lora": LoraSpec(r=16, alpha=32, dropout=0.0, targets=["language"]),
    }
    return ModelSpec(**(settings | changes))


def make_image(work: Work, number: int) -> Image.Image:
    """Make an image of coarse noise."""
    blocks = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((work.edge, work.edge), Image.Resampling.BICUBIC)


def make_captions(work: Work, image: str, number: int) -> list[Caption]:
    """Make the captions of an image; every third sentence is incorrect, with a marked word."""
    return [_make_caption(work, image, number, one) for one in range(work.captions)]


def sentences_of(captions: Sequence[Caption]) -> list[str]:
    """Return the sentences of captions, one after another."""
    return [caption.text[one.start : one.end] for caption in captions for one in caption.sentences]


def _make_caption(work: Work, image: str, number: int, one: int) -> Caption:
    source = random.Random(f"{number}/{one}")
    text, sentences, spans = "", [], []
    for place in range(work.sentences):
        start = len(text) + bool(text)
        words = " ".join(source.choice(WORDS) for _ in range(work.words - 1))
        text = f"{text} {words}.".strip()
        is_wrong = (number + one + place) % 3 == 0
        sentences.append(Sentence(start, len(text), "incorrect" if is_wrong else "correct"))
        if is_wrong:
            spans.append(Span(start, start + 3, TAXONOMY[place % 2]))
    return Caption(f"{number}/{one}", image, "nobody", "image_to_text", text, tuple(sentences), tuple(spans))


def _tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<image>", "<unk>", "yes", "no", *PROMPT.split()[1:], ".", *WORDS]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
