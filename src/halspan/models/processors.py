"""How processors load without torchvision, on the image backend that a detector belongs to."""

from typing import Any, Literal

# Of the image processors; pixels of other backends differ, so a detector belongs to one.
IMAGE_BACKEND: Literal["pil"] = "pil"


def auto_processor(source: str, revision: str | None) -> Any:
    """Load the processor that a checkpoint names."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(source, revision=revision, backend=IMAGE_BACKEND, trust_remote_code=False)


def image_only(processor_class: Any) -> Any:
    """Make the class of a processor that reads no videos: video processors need torchvision."""

    def get_attributes(_class: Any) -> list[str]:
        return ["image_processor", "tokenizer"]

    name = processor_class.__name__  # checkpoints name it
    return type(name, (processor_class,), {"get_attributes": classmethod(get_attributes)})


def image_processor_of(name: str) -> Any:
    """Make the function that loads a processor class of transformers without its videos."""

    def load(source: str, revision: str | None) -> Any:
        import transformers

        processor_class = image_only(getattr(transformers, name))
        return processor_class.from_pretrained(source, revision=revision, backend=IMAGE_BACKEND)

    return load


def llama4_processor(source: str, revision: str | None) -> Any:
    """Load Llama-4's processor around halspan's image processor: transformers has none without torchvision."""
    from transformers import AutoTokenizer, Llama4Processor

    from halspan.models.llama4_images import Llama4ImageProcessorPil

    parts = [part.from_pretrained(source, revision=revision) for part in (Llama4ImageProcessorPil, AutoTokenizer)]
    settings, _ = Llama4Processor.get_processor_dict(source, revision=revision)
    return Llama4Processor.from_args_and_dict(parts, settings)
