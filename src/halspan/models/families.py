"""What differs between families of vision-language models: where their parts are, and what they want with a row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from halspan.models import family_inputs as inputs
from halspan.models import processors


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where one family keeps its parts, and what its forward pass wants beside tokens and pixels.

    Attributes:
        decoder: path of the text decoder, whose output is the hidden states below the vocabulary head; None asks the
            model itself (`get_decoder()`).
        vision: pattern of the vision tower's paths.
        projector: pattern of the paths of what turns vision features into token embeddings.
        layers: the linear layers of each component (`language`, `vision`, `projector`) that LoRA can adapt; patterns of
            whole paths.
        experts: the parameters that hold the weights of all routed experts of a layer at once, which are no linear
            layers; a pattern of whole paths. None where a family has none.
        load_processor: loads the processor from a local folder or hub id and its revision.
        prompt_blocks: which tokens of the prompt see each other both ways (see `halspan.models.family_inputs`).
        complete: changes or adds inputs of the forward pass.
        limit: what does not work, and why; empty for nothing.
    """

    decoder: str | None
    vision: str
    projector: str
    layers: Mapping[str, str]
    experts: str | None = None
    load_processor: Callable[[str, str | None], Any] = processors.auto_processor
    prompt_blocks: inputs.PromptBlocks = inputs.causal_prompt
    complete: inputs.Complete = inputs.as_laid_out
    limit: str = ""


_ATTENTION_AND_MLP = r"\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj"
_LANGUAGE = r"model\.language_model" + _ATTENTION_AND_MLP
_ENCODER = r"\..*\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.fc[12])"  # of CLIP and SigLIP
_TOWER = Family(
    decoder="model.language_model",
    vision=r"model\.vision_tower\..*",
    projector=r"model\.(multi_modal_projector\..*|image_newline)",
    layers={
        "language": _LANGUAGE,
        "projector": r"model\.multi_modal_projector\.linear_[12]",
        "vision": r"model\.vision_tower" + _ENCODER,
    },
)
_CONNECTOR = Family(
    decoder="model.text_model",
    vision=r"model\.vision_model\..*",
    projector=r"model\.connector\..*",
    layers={
        "language": r"model\.text_model" + _ATTENTION_AND_MLP,
        "projector": r"model\.connector\.modality_projection\.proj",
        "vision": r"model\.vision_model" + _ENCODER,
    },
)
_NO_VIDEOS = "images only: the video processor needs torchvision"

FAMILIES: Mapping[str, Family] = {
    "llama4": Family(
        decoder="language_model.model",
        vision=r"vision_model\.(?!vision_adapter\.).*",
        projector=r"(vision_model\.vision_adapter|multi_modal_projector)\..*",
        layers={
            # of the feed-forward part, dense layers and the expert that every token passes
            "language": r"language_model\.model\.layers\.\d+\."
            r"(self_attn\.[qkvo]|feed_forward\.(shared_expert\.)?(gate|up|down))_proj",
            "projector": r"vision_model\.vision_adapter\.mlp\.fc[12]|multi_modal_projector\.linear_1",
            "vision": r"vision_model\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.fc[12])",
        },
        experts=r"language_model\.model\.layers\.\d+\.feed_forward\.experts\.(gate_up|down)_proj",
        load_processor=processors.llama4_processor,
        limit="pixels are resized by PIL, so they are not to the bit those of torchvision",
    ),
    "qwen2_5_vl": Family(
        decoder="model.language_model",
        vision=r"model\.visual\.(?!merger\.).*",
        projector=r"model\.visual\.merger\..*",
        layers={
            "language": _LANGUAGE,
            "projector": r"model\.visual\.merger\.mlp\.[02]",
            "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)",
        },
        load_processor=processors.image_processor_of("Qwen2_5_VLProcessor"),
        complete=inputs.grid_positions,
        limit=_NO_VIDEOS,
    ),
    "qwen3_vl": Family(
        decoder="model.language_model",
        vision=r"model\.visual\.(?!merger\.|deepstack_merger_list\.).*",
        projector=r"model\.visual\.(merger|deepstack_merger_list\.\d+)\..*",
        layers={
            "language": _LANGUAGE,
            "projector": r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]",
            "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])",
        },
        load_processor=processors.image_processor_of("Qwen3VLProcessor"),
        complete=inputs.grid_positions,
        limit=_NO_VIDEOS,
    ),
    "internvl": replace(
        _TOWER,
        layers={
            "language": _LANGUAGE,
            "projector": r"model\.multi_modal_projector\.linear_[12]",
            "vision": r"model\.vision_tower\.encoder\.layer\.\d+\."
            r"(attention\.(q_proj|k_proj|v_proj|projection_layer)|mlp\.fc[12])",
        },
        load_processor=processors.image_processor_of("InternVLProcessor"),
        limit=_NO_VIDEOS,
    ),
    "gemma3": replace(
        _TOWER,
        layers={"language": _LANGUAGE, "vision": r"model\.vision_tower" + _ENCODER},
        prompt_blocks=inputs.images_see_themselves,
        limit="no LoRA on the projector: its weight is no linear layer",
    ),
    "idefics3": _CONNECTOR,
    "smolvlm": replace(
        _CONNECTOR,
        # with images it is SmolVLM's own, which for videos needs torchvision and num2words, and is not built without
        load_processor=processors.image_processor_of("Idefics3Processor"),
        limit=_NO_VIDEOS,
    ),
    "llava": _TOWER,
    "llava_onevision": replace(
        _TOWER,
        load_processor=processors.image_processor_of("LlavaOnevisionProcessor"),
        limit=_NO_VIDEOS,
    ),
    "paligemma": replace(
        _TOWER,
        layers={
            "language": _LANGUAGE,
            "projector": r"model\.multi_modal_projector\.linear",
            "vision": r"model\.vision_tower" + _ENCODER,
        },
        prompt_blocks=inputs.prompt_sees_itself,
        limit="no chat template: the prompt holds the placeholder; the processor adds a newline behind it",
    ),
    "mllama": Family(
        decoder="model.language_model",
        vision=r"model\.vision_model\..*",
        projector=r"model\.multi_modal_projector\..*",
        layers={
            "language": r"model\.language_model\.layers\.\d+\."
            r"((self_attn|cross_attn)\.[qkvo]|mlp\.(gate|up|down))_proj",
            "projector": r"model\.multi_modal_projector",
            "vision": r"model\.vision_model\.(global_)?transformer\.layers\.\d+\."
            r"(self_attn\.[qkvo]_proj|mlp\.fc[12])",
        },
        complete=inputs.captions_see_the_image,
        limit="layers of the vision tower are not checkpointed; matters where it is trained",
    ),
}
"""By transformers' `model_type`."""

_VISION = r".*(?:vision|visual|image_encoder).*"
_PROJECTOR = r".*(?:projector|connector|merger|adapter).*"

DEFAULT = Family(
    decoder=None,
    vision=rf"(?!{_PROJECTOR}){_VISION}",
    projector=_PROJECTOR,
    layers={
        "language": rf"(?!{_VISION}|{_PROJECTOR}).*\.([qkvo]|gate|up|down)_proj",
    },
)
"""Any other `AutoModelForImageTextToText`, by the names that most of them use."""


def family_of(model_type: str) -> Family:
    """Give the family of a transformers `model_type`."""
    return FAMILIES.get(model_type, DEFAULT)
