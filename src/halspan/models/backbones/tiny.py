"""A random Llama-4 with a few hundred thousand parameters, built offline from the real classes, for trials."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4Processor,
    Llama4TextConfig,
    Llama4VisionConfig,
    PreTrainedTokenizerFast,
)

from halspan.models.backbones.llama4_images import Llama4ImageProcessorPil

TILE = 112  # pixels
PATCH = 14  # pixels
VOCABULARY = 640

_IMAGE_TOKENS = {
    "image_token": "<|image|>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "patch_token": "<|patch|>",
    "tile_x_separator_token": "<|tile_x_separator|>",
    "tile_y_separator_token": "<|tile_y_separator|>",
}
_OTHER_TOKENS = ["<|header_start|>", "<|header_end|>", "<|eot|>"]

_MERGES_FROM = """\
The image shows a man and a woman standing on the left side of a street in front of a large white building with two red
windows. In the background there are several trees and a clear blue sky. The man is wearing a black shirt and dark
glasses, while the woman, who is holding a small brown dog, has long blond hair. To the right of them a yellow sign
reads "OPEN". Behind the wooden table three children are sitting on green chairs and looking at the bright screen. The
overall atmosphere of the scene appears to be warm and relaxed, suggesting a sunny day in the city. The chart compares
the share of people in each country between the years; the highest value is about 45% and the lowest is around 12%.
"""


def save_tiny_llama4(folder: Path, *, seed: int = 0) -> None:
    """Write a random `Llama4ForConditionalGeneration` with its processor, as `save_pretrained` does.

    It has the special features of Llama-4: tiled images, routed and shared experts, layers with and without rotary
    positions. Its byte-level tokenizer reads any text in any language.

    Args:
        folder: Output folder, created if necessary.
        seed: Seed, which alone determines the weights.
    """
    tokenizer = _build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Llama4ForConditionalGeneration(_build_config(tokenizer))
    model.should_save_on_this_rank = lambda _: True  # of processes that train together, each has a folder of its own
    image_processor = Llama4ImageProcessorPil(size={"height": TILE, "width": TILE}, max_patches=4)
    # processes that train together each write a folder of their own; transformers would let only the first one write
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    model.save_pretrained(folder)
    Llama4Processor(image_processor, tokenizer, patch_size=PATCH).save_pretrained(folder)


def tiny_llama4_config() -> Llama4Config:
    """Return the configuration of the tiny Llama-4 without building its weights."""
    return _build_config(_build_tokenizer())


def _build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|begin_of_text|>", *_IMAGE_TOKENS.values(), *_OTHER_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=specials,
        show_progress=False,
    )
    tokenizer.train_from_iterator([_MERGES_FROM], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|begin_of_text|>",
        eos_token="<|eot|>",
        extra_special_tokens=dict(_IMAGE_TOKENS),
    )


def _build_config(tokenizer: PreTrainedTokenizerFast) -> Llama4Config:
    text = Llama4TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        intermediate_size_mlp=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        no_rope_layer_interval=2,
        max_position_embeddings=8192,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = Llama4VisionConfig(
        hidden_size=64,
        intermediate_size=256,  # also the adapter's input: 2 x 2 patches of 64
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=TILE,
        patch_size=PATCH,
        vision_output_dim=64,
        projector_input_dim=64,
        projector_output_dim=64,
    )
    return Llama4Config(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
        random_weights=True,  # see `halspan.models.backbones.loading.is_random`
    )
