"""The baselines by name: those that learn from captions and see no image, and models that nobody fine-tuned."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from halspan.baselines.blind import FITS
from halspan.baselines.spec import DualEncoderSpec, ZeroShotSpec
from halspan.core.captions import Prediction
from halspan.core.cost import Cost
from halspan.core.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from halspan.data.rows import Row

ModelSpecs = DualEncoderSpec | ZeroShotSpec
SPECS: Mapping[str, type[ModelSpecs]] = {"clipscore": DualEncoderSpec, "zero_shot": ZeroShotSpec}
"""What each model among the baselines is set up by."""

NAMES = (*FITS, *SPECS)


class ModelBaseline(Protocol):
    """A model that scores sentences as it is.

    Attributes:
        title: for tables.
        model_type: of the model, in transformers' words.
        random_weights: whether nobody has trained the model, so that its scores mean nothing.
    """

    title: str
    model_type: str
    random_weights: bool

    def score(
        self, rows: "Sequence[Row]", *, read_image: "Callable[[Path], Image]"
    ) -> Iterator[tuple[Prediction, Cost]]:
        """Score captions, one at a time in the order of the rows, and say what each cost."""
        ...


def check_names(names: Iterable[str]) -> None:
    """Require that each is the name of a baseline.

    Raises:
        ConfigError: one is not.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise ConfigError(f"baselines: {unknown[0]!r} is none; possible: {', '.join(NAMES)}")


def check_model(spec: ModelSpecs) -> None:
    """Make sure, before anything is scored, that the model that a spec names can be loaded.

    Dual encoders are small, and are loaded once for it; of a model that is asked, all but the weights is read.

    Raises:
        ModelError: as `open_model`.
    """
    if isinstance(spec, DualEncoderSpec):
        open_model(spec, device="cpu")
        return
    from halspan.baselines.zero_shot import check_zero_shot

    check_zero_shot(spec)


def open_model(spec: ModelSpecs, *, device: "torch.device | str") -> ModelBaseline:
    """Load the model that a spec names.

    Raises:
        ModelError: it cannot be loaded, or is not of the kind that the baseline needs.
    """
    if isinstance(spec, DualEncoderSpec):
        from halspan.baselines.dual_encoder import load_dual_encoder

        return load_dual_encoder(spec, device=device)
    from halspan.baselines.zero_shot import load_zero_shot

    return load_zero_shot(spec, device=device)
