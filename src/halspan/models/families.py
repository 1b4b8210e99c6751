"""What differs between families of vision-language models: where their parts are, and how their processor loads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

IMAGE_BACKEND = "pil"  # of the image processors; pixels of other backends differ, so a detector belongs to one


def _auto_processor(source: str, revision: str | None) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(source, revision=revision, backend=IMAGE_BACKEND)


def _llama4_processor(source: str, revision: str | None) -> Any:
    """Load Llama-4's processor around halspan's image processor: transformers has none without torchvision."""
    from transformers import AutoTokenizer, Llama4Processor

    from halspan.models.llama4_images import Llama4ImageProcessorPil

    parts = [part.from_pretrained(source, revision=revision) for part in (Llama4ImageProcessorPil, AutoTokenizer)]
    settings, _ = Llama4Processor.get_processor_dict(source, revision=revision)
    return Llama4Processor.from_args_and_dict(parts, settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where one family keeps its parts.

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
    """

    decoder: str | None
    vision: str
    projector: str
    layers: Mapping[str, str]
    experts: str | None = None
    load_processor: Callable[[str, str | None], Any] = _auto_processor


FAMILIES: Mapping[str, Family] = {
    "llava": Family(
        decoder="model.language_model",
        vision=r"model\.vision_tower\..*",
        projector=r"model\.multi_modal_projector\..*",
        layers={
            "language": r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj",
            "projector": r"model\.multi_modal_projector\.linear_[12]",
            "vision": r"model\.vision_tower\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
        },
    ),
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
        load_processor=_llama4_processor,
    ),
}

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
