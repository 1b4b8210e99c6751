"""The baselines by name: those that learn from captions without images, and models without fine-tuning."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from halspan.core.captions import Prediction
from halspan.core.cost import Cost
from halspan.core.errors import ConfigError
from halspan.evaluation.baselines.baseline_specs import DualEncoderSpec, ZeroShotSpec
from halspan.evaluation.baselines.text_only import FITS

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from halspan.data.rows import Row

ModelSpecs = DualEncoderSpec | ZeroShotSpec
SPECS: Mapping[str, type[ModelSpecs]] = {"clipscore": DualEncoderSpec, "zero_shot": ZeroShotSpec}
"""Spec classes of the baselines that are models."""

NAMES = (*FITS, *SPECS)


class ModelBaseline(Protocol):
    """A model that scores sentences without fine-tuning.

    Attributes:
        title: Name, for tables.
        model_type: Transformers' type of the model.
        random_weights: Whether the model has not been trained, so that its scores mean nothing.
    """

    title: str
    model_type: str
    random_weights: bool

    def score(
        self, rows: "Sequence[Row]", *, read_image: "Callable[[Path], Image]"
    ) -> Iterator[tuple[Prediction, Cost]]:
        """Score captions, one at a time in the order of the rows, and report the cost of each."""
        ...


def check_names(names: Iterable[str]) -> None:
    """Require that each name is that of a baseline.

    Raises:
        ConfigError: A name is not that of a baseline.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise ConfigError(f"baselines: {unknown[0]!r} is none; possible: {', '.join(NAMES)}")


def check_model(spec: ModelSpecs) -> None:
    """Check, before anything is scored, that the model that a spec names can be loaded.

    Dual encoders are small, so they are loaded for this check. Of zero-shot models, everything but the weights is read.

    Raises:
        ModelError: As for `open_model`.
    """
    if isinstance(spec, DualEncoderSpec):
        open_model(spec, device="cpu")
        return
    from halspan.evaluation.baselines.zero_shot import check_zero_shot

    check_zero_shot(spec)


def open_model(spec: ModelSpecs, *, device: "torch.device | str") -> ModelBaseline:
    """Load the model that a spec names.

    Raises:
        ModelError: It cannot be loaded, or is not of the kind that the baseline needs.
    """
    if isinstance(spec, DualEncoderSpec):
        from halspan.evaluation.baselines.dual_encoder import load_dual_encoder

        return load_dual_encoder(spec, device=device)
    from halspan.evaluation.baselines.zero_shot import load_zero_shot

    return load_zero_shot(spec, device=device)
