"""Tiny random models of the real transformers classes, and images, captions and specs to feed detectors with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
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

TAXONOMY = ("Attribute", "Object")

# Russian, an emoji family of several code points, Chinese, what looks like a placeholder, Arabic, a combining accent
TEXTS = (
    "A man rides a red horse. He wears a hat.",
    "Мужчина едет. 👩‍👩‍👧 и 马 стоят!",
    "The sign says <image> and <|patch|>. مرحبا cafe\u0301.",
)


def save_tiny_llava(folder: Path) -> None:
    """Save a LLaVA of SigLIP and Qwen3 parts with 9 image tokens, built like the shapes backbone."""
    tokenizer = byte_tokenizer()
    vision = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=96,
        patch_size=32,
        vision_use_head=False,
    )
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.image_token_id,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        random_weights=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 96, "width": 96})
    LlavaProcessor(images, tokenizer, patch_size=32, vision_feature_select_strategy="full").save_pretrained(folder)


def byte_tokenizer(**specials: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each byte, and special tokens by their names."""
    specials = {"image_token": "<image>"} | specials
    vocabulary = ["<pad>", *specials.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", extra_special_tokens=specials)


MakeSpec = Callable[..., ModelSpec]


def spec_maker(backbone: str, prompt: str) -> MakeSpec:
    """Make specs of one backbone that differ from a default in what is given."""
    lora = LoraSpec(r=4, alpha=8, dropout=0.0, targets=["language"])
    default: dict[str, Any] = {
        "backbone": backbone,
        "prompt": prompt,
        "context": "causal",
        "max_tokens": 1024,
        "pack_tokens": 1024,
        "dtype": "float32",
        "attention": "eager",
        "lora": lora,
    }
    return lambda **changes: ModelSpec(**(default | changes))


def make_image(seed: int = 0, *, width: int = 120, height: int = 90) -> Image.Image:
    """Make an image of colored noise, coarse enough to survive scaling."""
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def make_caption(text: str, *, label: Any = None, spans: tuple[Span, ...] = ()) -> Caption:
    """Make a caption with a sentence up to each full stop or exclamation mark."""
    ends = [place + 1 for place, character in enumerate(text) if character in ".!"] or [len(text)]
    starts = [0, *(end + 1 for end in ends[:-1])]
    sentences = tuple(Sentence(start, end, label) for start, end in zip(starts, ends, strict=True))
    return Caption(text[:20], "image.png", "someone", "image_to_text", text, sentences, spans)
