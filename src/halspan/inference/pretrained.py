"""A detector to take away: loaded from a folder or the hub, it scores texts about images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, overload

import torch
from PIL.Image import Image

import halspan
from halspan.console import without_other_bars
from halspan.core import captions as core
from halspan.core.errors import ConfigError, HalspanError, ModelError
from halspan.data.images import load_image
from halspan.data.rows import Row
from halspan.inference.answers import Answers
from halspan.inference.card import check_card, write_card
from halspan.inference.hub import download, upload
from halspan.inference.items import ImageLike, Item, Ranges, Task, group_items, read_image
from halspan.inference.results import Prediction
from halspan.inference.scoring import CaptionScores, ReadImage
from halspan.inference.tuning import Tuned, predict
from halspan.inference.windows import Refuse, score_texts
from halspan.models.detector import SpanDetector
from halspan.models.devices import find_device
from halspan.models.encoding import RowEncoder
from halspan.models.export import write_weights
from halspan.models.load import load_detector
from halspan.models.processors import IMAGE_BACKEND
from halspan.models.record import SCHEMA, BackboneRecord, DetectorRecord, model_record
from halspan.models.spec import ModelSpec

BATCH_TOKENS = 16_384
OnError = Literal["raise", "return"]
_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a detector beside its weights.

    Attributes:
        name: what it is called.
        backbone: what the record says of its backbone, where it was loaded from a folder.
        figures: how it was judged (see `halspan.inference.card.headline`).
        origin: what it was trained on.
        check: how its folder was compared with the live detector; None where it was not.
    """

    name: str
    backbone: BackboneRecord | None = None
    figures: Mapping[str, Any]
    origin: Mapping[str, Any]
    check: Mapping[str, Any] | None = None


class Detector:
    """Says which sentences of a text about an image are incorrect, and which words are hallucinated.

    `Detector.from_pretrained` makes one. Results do not depend on the order of texts or what is scored beside them (in
    float32, to 1e-5).

    Args:
        detector: adapters, heads and backbone.
        encoder: its encoder.
        spec: what it was built from.
        taxonomy: its types.
        tuned: its calibration and decoding.
        about: what else is known of it.

    Attributes:
        taxonomy: the types of hallucination that it tells apart.
        tuned: temperatures, threshold of sentences, decoding of spans.
        about: name, figures and origin.
    """

    def __init__(
        self,
        detector: SpanDetector,
        encoder: RowEncoder,
        *,
        spec: ModelSpec,
        taxonomy: Sequence[str],
        tuned: Tuned,
        about: About,
    ) -> None:
        self._detector = detector.eval()
        self._encoder = encoder
        self._spec = spec
        self.taxonomy = tuple(taxonomy)
        self.tuned = tuned
        self.about = about

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
    ) -> "Detector":
        """Load a detector; only JSON and safetensors are read, and no code that comes with it is run.

        Args:
            folder_or_hub_id: what `export.py` or `save_pretrained` wrote, or the id of such a repository on the hub.
            device: None takes the first GPU, where there is one, and the CPU elsewhere.
            dtype: of the frozen weights, float32 or bfloat16; None takes what it was trained in.
            revision: commit, tag or branch of a hub id.

        Raises:
            ModelError: there is no detector, it is damaged, unsafe or not what its record says, its backbone is not
                the one that it was trained on, or there is no such device; says what differs and what to do.
        """
        if dtype is not None and not (isinstance(dtype, str | torch.dtype) and dtype in _DTYPES):
            raise ModelError(f"dtype: {dtype!r} is not possible; one of float32, bfloat16")
        where = find_device(device)
        folder, blobs = Path(folder_or_hub_id), None
        if not folder.exists():
            folder, blobs = download(str(folder_or_hub_id), revision)
        with without_other_bars():
            detector, encoder, spec, record = load_detector(
                folder,
                device=where,
                dtype=None if dtype is None else _DTYPES[dtype],  # type: ignore[arg-type]  # its keys are those
                blobs=blobs,
            )
        tuned = _read_tuned(folder, record)
        check_card(record)
        about = About(
            name=record.name,
            backbone=record.backbone,
            figures=record.figures,
            origin=record.origin,
            check=record.check,
        )
        return cls(detector, encoder, spec=spec, taxonomy=record.taxonomy, tuned=tuned, about=about)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self._detector.parameters()).device

    def __repr__(self) -> str:
        return f"Detector({self.about.name!r}, {len(self.taxonomy)} types, on {self.device})"

    def save_pretrained(self, folder: str | PathLike[str], *, merge: bool = False) -> None:
        """Write a folder that `from_pretrained` reads: JSON, safetensors and a model card.

        Args:
            folder: a new or empty one.
            merge: put the adapters into the backbone's weights; this detector then has none any more.

        Raises:
            ModelError: the folder holds something, there is nothing to merge, or the backbone is no longer there.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ModelError(f"{folder}: holds something already; give a new folder, or empty it")
        folder.mkdir(parents=True, exist_ok=True)
        with without_other_bars():
            written = write_weights(
                folder,
                self._detector,
                self._encoder.processor,
                self._spec,
                taxonomy=self.taxonomy,
                merge=merge,
                origin=self.about.backbone,
            )
        record = DetectorRecord(
            schema=SCHEMA,
            halspan=halspan.__version__,
            name=self.about.name,
            kind=written.kind,
            taxonomy=list(self.taxonomy),
            tuned=self.tuned.to_record(),
            model=model_record(replace(written.spec, prompt=self._encoder.prompt)),
            backbone=written.backbone,
            image_backend=IMAGE_BACKEND,
            heads=written.heads,
            files=written.files,
            figures=dict(self.about.figures),
            origin=dict(self.about.origin),
            check=None if self.about.check is None else dict(self.about.check),
        )
        record.write(folder)
        write_card(folder, record)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "Upload a halspan detector",
        token: str | None = None,
    ) -> str:
        """Write the detector to a repository on the hub, which is made if need be.

        Args:
            repo_id: `owner/name`.
            private: whether a new repository is; None is the hub's default for its owner.
            revision: branch; None is the main one.
            message: of the commit.
            token: of the hub; None takes the one of `hf auth login`.

        Returns:
            The address of the commit.

        Raises:
            ModelError: it cannot be uploaded.
        """
        with TemporaryDirectory() as temporary:
            folder = Path(temporary, "detector")
            self.save_pretrained(folder)
            return upload(folder, repo_id, private=private, revision=revision, message=message, token=token)

    def predict(self, image: ImageLike, text: str, *, sentences: Ranges | None = None) -> Prediction:
        """Score one text about an image.

        Args:
            image: path, PIL image, array of 8-bit pixels (height, width[, 1, 3 or 4]), or the bytes of an image file.
            text: one or many sentences, in any language that the backbone's tokenizer knows.
            sentences: characters `[start, end)` of each sentence, in order; None has them found.

        Returns:
            Sentences with P(incorrect), marked spans, and what could not be scored. Texts that do not fit the
            backbone's window are read in overlapping ones (see `halspan.inference.windows`).

        Raises:
            DataError: the image cannot be read, the text is no text, or a sentence does not fit it.
            ModelError: the image alone does not fit the window, or scores are not finite numbers.
        """
        task = Task.of(read_image(image), text, sentences)
        return next(iter(self._answer([[task]], BATCH_TOKENS, are_errors_given=False)))  # type: ignore[return-value]

    @overload
    def predict_many(
        self, items: Iterable[Item], *, batch_tokens: int = ..., on_error: Literal["raise"] = ...
    ) -> Iterator[Prediction]: ...

    @overload
    def predict_many(
        self, items: Iterable[Item], *, batch_tokens: int = ..., on_error: Literal["return"]
    ) -> Iterator[Prediction | HalspanError]: ...

    def predict_many(
        self, items: Iterable[Item], *, batch_tokens: int = BATCH_TOKENS, on_error: OnError = "raise"
    ) -> Iterator[Prediction | HalspanError] | Iterator[Prediction]:
        """Score texts about images, in their order; neighbours with the same path share its encoding.

        Args:
            items: pairs of image and text, or triples with the sentences; as for `predict`.
            batch_tokens: most tokens of one forward pass, padding and images included; changes speed and memory, no
                result.
            on_error: `raise` ends at the first item that cannot be scored, behind the results of all items before it;
                `return` gives its error in the place of its result, and goes on.

        Raises:
            ConfigError: `on_error` is neither.
            DataError: as `predict`; says which item.
            ModelError: as `predict`; scores that are not finite numbers are raised in either case.
        """
        if on_error not in get_args(OnError):
            raise ConfigError(f"on_error: must be 'raise' or 'return', got {on_error!r}")
        return self._answer(group_items(items), batch_tokens, are_errors_given=on_error == "return")

    def _answer(
        self, groups: Iterable[Sequence[Task] | HalspanError], batch_tokens: int, *, are_errors_given: bool
    ) -> Iterator[Prediction | HalspanError]:
        answers = Answers(groups, threshold=self.tuned.threshold, are_errors_given=are_errors_given)
        scores = self._score(answers.rows(), batch_tokens, on_refused=answers.fail)
        return answers.settle(predict(scores, self.tuned, self.taxonomy))

    def score(
        self, rows: Iterable[Row], *, read_image: ReadImage = load_image, batch_tokens: int = BATCH_TOKENS
    ) -> Iterator[core.Prediction]:
        """Score captions, in the order of the rows; what `halspan score` is built on.

        Args:
            rows: images with captions of them.
            read_image: gives the RGB image behind a row's path.
            batch_tokens: as for `predict_many`.

        Raises:
            DataError: an image cannot be read.
            ModelError: as `predict`.
        """
        return predict(self.logits(rows, read_image=read_image, batch_tokens=batch_tokens), self.tuned, self.taxonomy)

    def logits(
        self, rows: Iterable[Row], *, read_image: ReadImage = load_image, batch_tokens: int = BATCH_TOKENS
    ) -> Iterator[CaptionScores]:
        """Give scores as they are before anything is calibrated or decided; arguments as for `score`."""
        return self._score(((read_image(row.image), row.captions) for row in rows), batch_tokens)

    def _score(
        self,
        rows: Iterable[tuple[Image, Sequence[core.Caption]]],
        batch_tokens: int,
        *,
        on_refused: Refuse | None = None,
    ) -> Iterator[CaptionScores]:
        return score_texts(
            self._detector,
            self._encoder,
            rows,
            is_causal=self._spec.context == "causal",
            batch_tokens=batch_tokens,
            on_refused=on_refused,
        )


def _read_tuned(folder: Path, record: DetectorRecord) -> Tuned:
    try:
        return Tuned.from_record(record.tuned)
    except ValueError as error:
        raise ModelError(
            f"{folder}: tuned: {record.tuned!r:.200} is not possible ({error}); export the detector again"
        ) from None
