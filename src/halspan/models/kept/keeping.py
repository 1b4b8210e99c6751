"""Which features of images may be kept, what identifies them, and the entries of one run."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from typing import Any

import torch
from torch import Tensor

import halspan
from halspan.core.errors import ConfigError
from halspan.models.detector import SpanDetector, example_row
from halspan.models.inputs.batch import Batch
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.kept.features import Draft, Features
from halspan.models.kept.store import Store
from halspan.models.model_spec import ModelSpec

logger = logging.getLogger(__name__)

MEASURING, KEEPING, OFF = range(3)


class Lookup:
    """The entries of one run's settings, for processes that read data.

    Args:
        store: Folder of the entries.
        settings: Hash of all that an entry depends on beside the content of its image.
        is_on: Whether features are kept from the start; otherwise it is measured first whether that pays.
    """

    def __init__(self, store: Store, settings: str, *, is_on: bool) -> None:
        self._store = store
        self._settings = settings
        # shared with workers, which read it before each row
        self._mode: Tensor = torch.tensor(KEEPING if is_on else MEASURING).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def mode(self) -> int:
        """Return MEASURING, KEEPING or OFF."""
        return int(self._mode)

    def set_mode(self, mode: int) -> None:
        """Keep features from now on (KEEPING), or no more (OFF)."""
        self._mode.fill_(mode)

    def name_of(self, content: str) -> str:
        """Return the name of the entry of an image, by the hash of its content."""
        return hashlib.sha256(f"{self._settings} {content}".encode()).hexdigest()

    def read(self, content: str) -> dict[str, Tensor] | None:
        """Read the entry of an image, by the hash of its content; None where there is none."""
        return self._store.read(self.name_of(content))


@dataclass(slots=True)
class Counts:
    """What became of the rows of a run.

    Attributes:
        served: Rows whose features were read.
        computed: Images whose features were computed and kept.
        refused: Rows whose features were computed, but could not be kept.
    """

    served: int = 0
    computed: int = 0
    refused: int = 0


class Keeper:
    """The features that one run keeps, in its training process.

    Args:
        store: Folder of the entries.
        settings: Hash of all that an entry depends on beside the content of its image.
        is_on: Whether features are kept from the start; otherwise it is measured first whether that pays.

    Attributes:
        lookup: Entries for processes that read data.
        counts: What became of rows so far.
    """

    def __init__(self, store: Store, settings: str, *, is_on: bool) -> None:
        self.lookup = Lookup(store, settings, is_on=is_on)
        self.counts = Counts()
        self._store = store

    def take(self, drafts: Sequence[Draft], features: Sequence[Features]) -> None:
        """Keep the features of the rows of a pass."""
        for draft, own in zip(drafts, features, strict=True):
            if self._store.has(draft.name):
                continue
            parts = {name: torch.from_numpy(part) for name, part in draft.parts.items()}
            is_kept = self._store.write(draft.name, parts | {f"features.{name}": part for name, part in own.items()})
            self.counts.computed += is_kept
            self.counts.refused += not is_kept

    def count(self, batch: Batch) -> None:
        """Count the rows of a pass that had features instead of pixels."""
        self.counts.served += len(batch.segments) if batch.features else 0


def open_keeper(
    detector: SpanDetector,
    encoder: RowEncoder,
    spec: ModelSpec,
    *,
    store: Store,
    is_on: bool,
    autocast: torch.dtype | None,
    device: str,
) -> Keeper | None:
    """Return a keeper for the features that a detector's backbone makes of images; None where it cannot have one.

    Args:
        detector: The detector.
        encoder: Its encoder.
        spec: Its spec.
        store: Folder of the entries.
        is_on: Whether features are kept from the start; otherwise it is measured first whether that pays.
        autocast: Precision of the forward pass, if it is not that of the weights.
        device: Type of the device.

    Raises:
        ConfigError: Features are to be kept from the start, and cannot be.
    """
    if (obstacle := find_obstacle(detector, encoder)) is None:
        settings = identify(detector, encoder, spec, autocast=autocast, device=device)
        return Keeper(store, settings, is_on=is_on)
    if is_on:
        raise ConfigError(
            f"trainer.keep_images: true, but {obstacle}, so features of images cannot be kept; set it to auto or false"
        )
    logger.info("features of images are not kept: %s", obstacle)
    return None


def identify(
    detector: SpanDetector, encoder: RowEncoder, spec: ModelSpec, *, autocast: torch.dtype | None, device: str
) -> str:
    """Return the hash of all that the features of an image depend on, beside its content.

    Args:
        detector: Detector whose backbone makes the features.
        encoder: Its encoder.
        spec: Its spec.
        autocast: Precision of the forward pass, if it is not that of the weights.
        device: Type of the device.
    """
    processor, config = encoder.processor, detector.base_model.config.to_dict()
    names = ("text_config", "_name_or_path", "name_or_path")  # the decoder changes nothing, and a folder may move
    settings = {
        "versions": {name: version(name) for name in ("torch", "transformers", "pillow")},
        "halspan": halspan.__version__,
        "weights": _hash(detector.tensors_below_decoder()),
        "config": {name: value for name, value in config.items() if name not in names},
        "dtype": spec.dtype,
        "autocast": autocast,
        "device": device,
        "attention": spec.attention,
        "image": spec.image,
        "processor": processor.to_dict(),
        "image_processor": processor.image_processor.to_dict(),
        "prompt": encoder.prompt,
        "tokenizer": processor.tokenizer.backend_tokenizer.to_str(),
        "bos": processor.tokenizer.bos_token,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def find_obstacle(detector: SpanDetector, encoder: RowEncoder) -> str | None:
    """Explain why the features of images cannot be kept; None where they can.

    What the decoder is called with is compared for an image and for its features, so a backbone of any family that
    needs more than features is found.
    """
    trained = {part for part, (count, _) in detector.trainable_parameters_by_component().items() if count}
    for part, target in (("vision tower", "vision"), ("projector", "projector")):
        if part in trained:
            return f"the {part} is trained (model.lora.targets has '{target}' or a pattern of its paths)"
    if any(weight.requires_grad for weight in detector.tensors_below_decoder().values()):
        return "weights below the text decoder are trained"
    vision = getattr(detector.base_model.config, "vision_config", None)
    dropout = {} if vision is None else {k: v for k, v in vision.to_dict().items() if "drop" in k and v}
    if dropout:
        return f"the vision tower has dropout ({', '.join(f'{name} {value}' for name, value in dropout.items())})"
    if not _are_enough(detector, encoder):
        family = detector.base_model.config.model_type
        return f"a backbone of the type {family!r} gives its decoder other inputs where it gets features for pixels"
    return None


@torch.no_grad()
def _are_enough(detector: SpanDetector, encoder: RowEncoder) -> bool:
    """Return whether the decoder is called with the same where the backbone gets features instead of pixels."""
    was_training = detector.training
    detector.eval()
    row = example_row(encoder)
    shown: list[Features] = []
    detector.on_features = lambda _, features: shown.extend(features)
    try:
        batch = encoder.collate([replace(row, entry="example")]).to(next(detector.backbone.parameters()).device)
        plain = detector.decoder_arguments(batch)
        entry = row.parts | {f"features.{name}": tensor for name, tensor in shown[0].items()}
        kept = encoder.encode_kept(entry, [caption.caption for caption in row.captions], targets=False)
        ours = detector.decoder_arguments(encoder.collate([kept]).to(batch.segments.device))
        return bool(shown[0]) and _are_same(plain, ours)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):  # a model that must have pixels
        return False
    finally:
        detector.on_features = None
        detector.train(was_training)


def _are_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    ones, others = dict(_leaves(left)), dict(_leaves(right))
    return ones.keys() == others.keys() and all(
        torch.equal(one, others[path]) if isinstance(one, Tensor) else one == others[path] for path, one in ones.items()
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items = ((str(key), value[key]) for key in sorted(value, key=str))
    elif isinstance(value, list | tuple):
        items = ((str(place), part) for place, part in enumerate(value))
    else:
        yield path, value
        return
    yield from chain.from_iterable(_leaves(part, f"{path}.{key}") for key, part in items)


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of every byte of tensors, and of their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
