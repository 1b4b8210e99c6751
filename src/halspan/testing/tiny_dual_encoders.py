"""A tiny random model of the real classes for each family of dual encoders, with a processor built offline."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from halspan.testing.tiny_models import byte_tokenizer

WINDOW = 32  # tokens of text: bytes, and the marks around them

_SIZE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_EDGE = 32  # pixels
_VISION = _SIZE | {"image_size": _EDGE, "patch_size": 8}

Parts = tuple[Any, Any]


def _mark(tokenizer: PreTrainedTokenizerFast, *, start: str | None, end: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer mark where a text ends, and where it starts."""
    marks = {"eos_token": end} | ({} if start is None else {"bos_token": start})
    tokenizer.add_special_tokens(marks)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start or ''} $A {end}".strip(),
        special_tokens=[(mark, tokenizer.convert_tokens_to_ids(mark)) for mark in marks.values()],
    )
    tokenizer.model_max_length = WINDOW
    return tokenizer


def _clip() -> Parts:
    tokenizer = _mark(byte_tokenizer(), start="<|startoftext|>", end="<|endoftext|>")
    config = CLIPConfig(text_config=_text(tokenizer), vision_config=_VISION, projection_dim=48)
    edge = {"height": _EDGE, "width": _EDGE}
    return config, CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": _EDGE}, crop_size=edge), tokenizer)


def _siglip() -> Parts:
    tokenizer = _mark(byte_tokenizer(), start=None, end="</s>")
    config = SiglipConfig(text_config=_text(tokenizer), vision_config=_VISION)
    return config, SiglipProcessor(SiglipImageProcessorPil(size={"height": _EDGE, "width": _EDGE}), tokenizer)


def _siglip2() -> Parts:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = _mark(Siglip2Tokenizer(vocab=vocabulary, padding_side="right"), start=None, end="<eos>")
    vision = _SIZE | {"num_patches": 16, "patch_size": 8}  # of any number for a side
    config = Siglip2Config(text_config=_text(tokenizer), vision_config=vision)
    return config, Siglip2Processor(Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16), tokenizer)


def _text(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return _SIZE | marks | {"vocab_size": len(tokenizer), "max_position_embeddings": WINDOW}


BUILD: Mapping[str, Callable[[], Parts]] = {"clip": _clip, "siglip": _siglip, "siglip2": _siglip2}


@lru_cache
def saved(name: str) -> Path:
    """Save the tiny model of a family once."""
    folder = Path(mkdtemp(prefix=f"{name}-"))
    save_tiny_dual_encoder(name, folder)
    return folder


def save_tiny_dual_encoder(name: str, folder: Path) -> None:
    """Save the tiny model of a family with its processor."""
    config, processor = BUILD[name]()
    config.random_weights = True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    if name != "clip":  # as on the hub: no mask, for SigLIP was trained on padded text and reads the padding
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_input_names": ["input_ids"]}))
