"""Differences between families of vision-language models: names of their parts, and extra inputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import nn

from halspan.core.errors import ConfigError
from halspan.core.extensions import Registry
from halspan.models.backbones import family_inputs as inputs
from halspan.models.backbones import processors


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The names of one family's parts, and the inputs of its forward pass besides tokens and pixels.

    Attributes:
        decoder: Path of the text decoder, whose output is the hidden states below the vocabulary head; None to use the
            model's `get_decoder()`.
        vision: Pattern of the vision tower's paths.
        projector: Pattern of the paths of the modules that turn vision features into token embeddings.
        layers: The linear layers of each component (`language`, `vision`, `projector`) that LoRA can adapt; patterns of
            whole paths.
        experts: Pattern of the whole paths of parameters that hold the weights of all routed experts of a layer, which
            are not linear layers. None where a family has no experts.
        load_processor: Function that loads the processor from a local folder or hub id, and a revision.
        prompt_blocks: Function that returns which tokens of the prompt see each other both ways (see `family_inputs`).
        complete: Function that changes or adds inputs of the forward pass.
        limit: Known limitation and its reason; empty if there is none.
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


def find_decoder(model: Any, family: Family) -> Any:
    """Return the text decoder of a model."""
    return model.get_decoder() if family.decoder is None else model.get_submodule(family.decoder)


def find_layers(decoder: nn.Module) -> Sequence[nn.Module]:
    """Return the layers of a text decoder, which are its longest list of modules."""
    return max((list(module) for module in decoder.modules() if isinstance(module, nn.ModuleList)), key=len)


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
        limit="no LoRA on the projector: its weight is not a linear layer",
    ),
    "idefics3": _CONNECTOR,
    "smolvlm": replace(
        _CONNECTOR,
        # SmolVLM's own processor needs torchvision and num2words for videos, even if only images are read
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
        limit="no chat template: the prompt holds the placeholder; the processor adds a newline after it",
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
"""Families, by transformers' `model_type`."""

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


BACKBONES = Registry("halspan.backbones", "backbone", {})
"""Families of other packages: under each `model_type` a function without arguments that returns its `Family`.

The function is called before transformers reads the configuration of such a backbone, so it may register classes.
"""


def family_of(model_type: str) -> Family:
    """Return the family of a transformers `model_type`: a row of the table, one that a package registers, or `DEFAULT`.

    Raises:
        ConfigError: A package registers something else for it, or cannot be imported.
    """
    if model_type in FAMILIES or model_type not in BACKBONES.names():
        return FAMILIES.get(model_type, DEFAULT)
    return _make_family(BACKBONES.find(model_type), model_type)


@cache  # transformers' classes are registered once per process
def _make_family(make: Callable[[], Any], model_type: str) -> Family:
    family = make() if callable(make) else make
    if not isinstance(family, Family):
        raise ConfigError(
            f"backbone {model_type!r}: {BACKBONES.provider(model_type)} registers {make!r}, which must be a function "
            f"without arguments that returns a halspan.models.backbones.families.Family, got {family!r:.100}"
        )
    return family
