"""A tiny random model of the real classes for each family of backbones, with a processor built offline."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3Processor,
    Idefics3Config,
    Idefics3Processor,
    InternVLConfig,
    InternVLProcessor,
    LlavaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    MllamaConfig,
    MllamaProcessor,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    SmolVLMConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from halspan.models.backbones.processors import image_only
from halspan.models.backbones.tiny import save_tiny_llama4
from halspan.testing.tiny_models import byte_tokenizer

_SIZE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_EDGE = 32  # pixels
_SQUARE = {"height": _EDGE, "width": _EDGE}
_SIGLIP = _SIZE | {
    "model_type": "siglip_vision_model",
    "image_size": _EDGE,
    "patch_size": 8,
    "vision_use_head": False,
}
_GRID_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}

Parts = tuple[Any, Any]


def _text(tokenizer: PreTrainedTokenizerFast, model_type: str, **changes: Any) -> dict[str, Any]:
    size = {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": 0.1}
    of_tokens = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    return _SIZE | size | of_tokens | {"model_type": model_type} | changes


def _qwen2_5_vl() -> Parts:
    tokenizer = byte_tokenizer(**_GRID_TOKENS)
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4}
    vision |= {
        "out_hidden_size": 64,
        "patch_size": 8,
        "window_size": 32,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.1,
    }
    rope = _ROPE | {"mrope_section": [4, 2, 2]}
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=_text(tokenizer, "qwen2_5_vl_text", rope_parameters=rope),
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_start_token_id,
        vision_end_token_id=tokenizer.vision_end_token_id,
    )
    return config, image_only(Qwen2_5_VLProcessor)(_grid_images(), tokenizer)


def _qwen3_vl() -> Parts:
    tokenizer = byte_tokenizer(**_GRID_TOKENS)
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4}
    vision |= {"out_hidden_size": 64, "patch_size": 8, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    rope = _ROPE | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        vision_config=vision | {"initializer_range": 0.1},
        text_config=_text(tokenizer, "qwen3_vl_text", rope_parameters=rope),
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_start_token_id,
        vision_end_token_id=tokenizer.vision_end_token_id,
        tie_word_embeddings=True,
    )
    return config, image_only(Qwen3VLProcessor)(_grid_images(), tokenizer)


def _grid_images() -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48}, patch_size=8)


def _internvl() -> Parts:
    tokenizer = byte_tokenizer(
        context_image_token="<IMG_CONTEXT>", start_image_token="<img>", end_image_token="</img>", video_token="<video>"
    )
    config = InternVLConfig(
        vision_config=_SIZE | {"image_size": _EDGE, "patch_size": 8, "initializer_range": 0.1},
        text_config=_text(tokenizer, "qwen2"),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    images = GotOcr2ImageProcessorPil(size=_SQUARE, max_patches=2)
    return config, image_only(InternVLProcessor)(images, tokenizer, image_seq_length=4)


def _gemma3() -> Parts:
    tokenizer = byte_tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    config = Gemma3Config(
        vision_config=_SIGLIP,
        text_config=_text(
            tokenizer,
            "gemma3_text",
            query_pre_attn_scalar=16,
            sliding_window=24,  # tokens; less than prompt and caption, so that it matters
            layer_types=["sliding_attention", "full_attention"],
        ),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    return config, Gemma3Processor(Gemma3ImageProcessorPil(size=_SQUARE), tokenizer, image_seq_length=4)


def _idefics3() -> Parts:
    return _connector(Idefics3Config, Idefics3ImageProcessorPil, Idefics3Processor)


def _smolvlm() -> Parts:
    named_as_on_the_hub = type("SmolVLMProcessor", (Idefics3Processor,), {})  # the real one needs num2words
    return _connector(SmolVLMConfig, SmolVLMImageProcessorPil, named_as_on_the_hub)


def _connector(config_class: Any, images_class: Any, processor_class: Any) -> Parts:
    tokenizer = byte_tokenizer(
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    config = config_class(
        image_token_id=tokenizer.image_token_id,
        scale_factor=2,
        vision_config=_SIZE | {"image_size": _EDGE, "patch_size": 8},
        text_config=_text(tokenizer, "llama"),
    )
    edge = {"longest_edge": _EDGE}
    images = images_class(size={"longest_edge": 2 * _EDGE}, max_image_size=edge)
    return config, processor_class(images, tokenizer, image_seq_len=4)


def _llava() -> Parts:
    tokenizer = byte_tokenizer()
    config = LlavaConfig(
        vision_config=_SIGLIP,
        text_config=_text(tokenizer, "llama"),
        image_token_index=tokenizer.image_token_id,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    images = SiglipImageProcessorPil(size=_SQUARE)
    return config, LlavaProcessor(images, tokenizer, patch_size=8, vision_feature_select_strategy="full")


def _llava_onevision() -> Parts:
    tokenizer = byte_tokenizer(video_token="<video>")
    grid = [[_EDGE, _EDGE], [_EDGE, 2 * _EDGE], [2 * _EDGE, _EDGE]]
    config = LlavaOnevisionConfig(
        vision_config=_SIGLIP | {"patch_size": 16},
        text_config=_text(tokenizer, "qwen2"),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=grid,
    )
    images = LlavaOnevisionImageProcessorPil(size=_SQUARE, image_grid_pinpoints=grid)
    return config, image_only(LlavaOnevisionProcessor)(
        images, tokenizer, num_image_tokens=4, vision_feature_select_strategy="full"
    )


def _paligemma() -> Parts:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>"})
    images = SiglipImageProcessorPil(size=_SQUARE, image_seq_length=16)
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        vision_config=_SIGLIP,
        text_config=_text(tokenizer, "gemma"),
        image_token_index=tokenizer.image_token_id,
        projection_dim=64,
        hidden_size=64,
    )
    return config, processor


def _mllama() -> Parts:
    tokenizer = byte_tokenizer(image_token="<|image|>")
    tokenizer.add_special_tokens({"bos_token": "<|begin_of_text|>"})
    image_token = tokenizer.image_token_id
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_global_layers": 1}
    vision |= {"attention_heads": 4, "image_size": _EDGE, "patch_size": 16, "vision_output_dim": 128}
    config = MllamaConfig(
        vision_config=vision | {"intermediate_layers_indices": [1], "initializer_range": 0.1},
        text_config=_text(tokenizer, "mllama_text_model", cross_attention_layers=[1], rope_parameters=_ROPE),
        image_token_index=image_token,
    )
    images = MllamaImageProcessorPil(size=_SQUARE, max_image_tiles=4)
    return config, MllamaProcessor(images, tokenizer)


_BUILD: Mapping[str, Callable[[], Parts]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl3": _internvl,
    "gemma3": _gemma3,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "paligemma": _paligemma,
    "mllama": _mllama,
}
PROMPTS: Mapping[str, str] = {
    "llama4": "<|image|>What?",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>What?",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>What?",
    "internvl3": "<IMG_CONTEXT>What?",
    "gemma3": "<start_of_image>What?",
    "idefics3": "<image>What?",
    "smolvlm": "<image>What?",
    "llava": "<image>What?",
    "llava_onevision": "<image>What?",
    "paligemma": "<image>What?",
    "mllama": "<|image|>What?",
}
"""The prompt before the captions, for each family."""

_ZERO_AT_FIRST = ("attn_gate", "mlp_gate", "gate_attn", "gate_ffn", ".gate", "mm_input_projection_weight")


def save_tiny(name: str, folder: Path) -> None:
    """Save the tiny model of a family with its processor."""
    if name == "llama4":  # which is part of the library
        save_tiny_llama4(folder)
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config["text_config"]["attention_chunk_size"] = 80  # tokens; ends inside captions, so that it matters
        file.write_text(json.dumps(config))
        return
    config, processor = _BUILD[name]()
    config.random_weights = True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        for path, parameter in model.named_parameters():
            if path.endswith(_ZERO_AT_FIRST):  # and the image would have no effect
                torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
