"""A family of backbones that transformers does not know: LLaVA under another name."""

from dataclasses import replace

from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig, LlavaForConditionalGeneration

from halspan.models.backbones.families import FAMILIES, Family
from halspan.models.backbones.processors import image_processor_of


class ExampleConfig(LlavaConfig):  # type: ignore[misc]  # transformers is untyped
    """The configuration, whose `model_type` is the name of the entry point."""

    model_type = "example_llava"


class ExampleForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """The model."""

    config_class = ExampleConfig


def make_family() -> Family:
    """Register the classes with transformers, and return where the family has its parts."""
    AutoConfig.register(ExampleConfig.model_type, ExampleConfig)
    AutoModelForImageTextToText.register(ExampleConfig, ExampleForConditionalGeneration)
    return replace(FAMILIES["llava"], load_processor=image_processor_of("LlavaProcessor"))
