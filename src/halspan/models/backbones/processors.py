"""Loading of processors without torchvision, on the image backend that a detector was made with."""

from typing import Any, Literal

# Backend of the image processors. A detector is bound to one, because pixels of other backends differ.
IMAGE_BACKEND: Literal["pil"] = "pil"


def auto_processor(source: str, revision: str | None) -> Any:
    """Load the processor that a checkpoint names."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(source, revision=revision, backend=IMAGE_BACKEND, trust_remote_code=False)


def image_only(processor_class: Any) -> Any:
    """Return a processor class that reads no videos, because video processors need torchvision."""

    def get_attributes(_class: Any) -> list[str]:
        return ["image_processor", "tokenizer"]

    def reduce(processor: Any) -> tuple[Any, ...]:  # a class that is made here is found under no name
        return _restore, (processor_class, processor.__dict__)

    name = processor_class.__name__  # checkpoints store this name
    return type(name, (processor_class,), {"get_attributes": classmethod(get_attributes), "__reduce__": reduce})


def _restore(processor_class: Any, state: dict[str, Any]) -> Any:
    """Make a processor that was pickled, for a process that reads data."""
    made = image_only(processor_class)
    processor = made.__new__(made)
    processor.__dict__.update(state)
    return processor


def image_processor_of(name: str) -> Any:
    """Return a function that loads a processor class of transformers without its video part."""

    def load(source: str, revision: str | None) -> Any:
        import transformers

        processor_class = image_only(getattr(transformers, name))
        return processor_class.from_pretrained(
            source, revision=revision, backend=IMAGE_BACKEND, trust_remote_code=False
        )

    return load


def llama4_processor(source: str, revision: str | None) -> Any:
    """Load Llama-4's processor with halspan's image processor, as that of transformers needs torchvision."""
    from transformers import AutoTokenizer, Llama4Processor

    from halspan.models.backbones.llama4_images import Llama4ImageProcessorPil

    parts = [
        Llama4ImageProcessorPil.from_pretrained(source, revision=revision),
        # without it, a tokenizer that comes with code of its own has the user asked whether to run it
        AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False),
    ]
    settings, _ = Llama4Processor.get_processor_dict(source, revision=revision)
    return Llama4Processor.from_args_and_dict(parts, settings)
