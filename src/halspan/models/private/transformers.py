"""Private names of transformers, as they are in 5.17 to 5.23."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.image_processing_backends import PilBackend
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.utils import cached_file
from typing_extensions import override


class LoadingQuantizer(Bnb4BitHfQuantizer):  # type: ignore[misc]  # transformers is untyped
    """Quantizer for bitsandbytes that acts before and after the weights of a model are read."""

    def before_loading(self, model: Any) -> None:
        """Prepare a model whose weights are still on the meta device."""
        raise NotImplementedError

    def after_loading(self, model: Any) -> None:
        """Complete a model whose weights have been read."""
        raise NotImplementedError

    @override
    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        self.before_loading(model)

    @override
    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        self.after_loading(model)
        return super()._process_model_after_weight_loading(model, **kwargs)


class LoadingConverter(HfQuantizer):  # type: ignore[misc]  # transformers is untyped
    """Quantizer that quantizes nothing: it acts on weights as they are read, in their stored precision."""

    is_trainable = True

    @override
    def is_serializable(self) -> bool:
        return False

    def before_loading(self, model: Any) -> None:
        """Prepare a model whose weights are still on the meta device."""

    def forget(self, model: Any) -> None:
        """Let a model whose weights have been read look as if there had been no quantizer."""
        self.remove_quantization_config(model)

    @override
    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        self.before_loading(model)


class PilImageProcessor(PilBackend):  # type: ignore[misc]  # transformers is untyped
    """Image processor in PIL and numpy."""

    def make_inputs(self, images: list[Any], **settings: Any) -> Any:
        """Return the model's inputs for images, `channel height width`, under the processor's settings."""
        raise NotImplementedError

    @override
    def _preprocess(self, images: list[Any], **settings: Any) -> Any:
        return self.make_inputs(images, **settings)


def checkpoint_with(layer: GradientCheckpointingLayer, checkpoint: Callable[..., Any]) -> None:
    """Let a layer be computed again in the backward pass, by a function like `torch.utils.checkpoint.checkpoint`."""
    layer.gradient_checkpointing = True
    layer._gradient_checkpointing_func = checkpoint


def find_optional_file(source: str, name: str, revision: str | None) -> Path | None:
    """Return a file of a hub id on this machine, downloaded if necessary; None if the hub has none of that name.

    Raises:
        OSError: The hub id is not known here, and the hub cannot be reached.
    """
    found = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
