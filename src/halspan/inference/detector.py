"""The public detector: loaded from a folder or the hub, it scores texts about images."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, overload

import torch

import halspan
from halspan.console import without_other_bars
from halspan.core import captions as core
from halspan.core.cost import Cost
from halspan.core.errors import ConfigError, HalspanError, ModelError
from halspan.data.images import load_image
from halspan.data.rows import Row
from halspan.inference.answers import Answers, ask
from halspan.inference.blocks import Answered, Asked, Block, in_order
from halspan.inference.card import check_card, write_card
from halspan.inference.hub import download, upload
from halspan.inference.queries import ImageLike, Item, Ranges, Task, read_tasks
from halspan.inference.results import Prediction
from halspan.inference.scorer import Scorer, Source
from halspan.inference.scores import CaptionScores, ReadImage
from halspan.inference.tuning import Tuned, predict
from halspan.models.backbones.processors import IMAGE_BACKEND
from halspan.models.detector import SpanDetector
from halspan.models.devices import find_device
from halspan.models.folder.load import load_detector
from halspan.models.folder.record import SCHEMA, BackboneRecord, DetectorRecord, ScoringRecord, model_record
from halspan.models.folder.write import write_weights
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import ModelSpec

BATCH_TOKENS = 16_384
OnError = Literal["raise", "return"]
_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class About:
    """Facts about a detector besides its weights.

    Attributes:
        name: what it is called.
        backbone: what the record says of its backbone, where it was loaded from a folder.
        figures: how it was judged (see `halspan.inference.card.headline`).
        origin: what it was trained on.
        check: how its folder was compared with the live detector; None where it was not.
        scoring: how it scored when its figures were measured; None where that is not known.
    """

    name: str
    backbone: BackboneRecord | None = None
    figures: Mapping[str, Any]
    origin: Mapping[str, Any]
    check: Mapping[str, Any] | None = None
    scoring: ScoringRecord | None = None


class Detector:
    """A detector that finds incorrect sentences and hallucinated words in texts about images.

    `Detector.from_pretrained` loads one. Results do not depend on the order of texts, or on the other texts scored with
    them (in float32, to 1e-5).

    Args:
        detector: Adapters, heads and backbone.
        encoder: Its encoder.
        spec: Spec that it was built from.
        taxonomy: Its types.
        tuned: Its calibration and decoding.
        about: Other facts about it.

    Attributes:
        taxonomy: Types of hallucination that it distinguishes.
        tuned: Temperatures, threshold of sentences, decoding of spans.
        about: Name, figures and origin.
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
        self._scorer = Scorer(detector, encoder, spec)
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
        """Load a detector; only JSON and safetensors are read, and code in the folder is not run.

        Args:
            folder_or_hub_id: Folder that `export.py` or `save_pretrained` wrote, or the id of such a repository on the
                hub.
            device: Device; None for the first GPU, or the CPU where there is none.
            dtype: Type of the frozen weights, float32 or bfloat16; None for the one of its training.
            revision: Commit, tag or branch of a hub id.

        Raises:
            ModelError: There is no detector, it is damaged, unsafe or different from its record, its backbone is not
                the one that it was trained on, or the device does not exist; the message says what differs and what to
                do.
        """
        if dtype is not None and not (isinstance(dtype, str | torch.dtype) and dtype in _DTYPES):
            raise ModelError(f"dtype: must be float32 or bfloat16, got {dtype!r}")
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
            scoring=record.scoring,
        )
        return cls(detector, encoder, spec=spec, taxonomy=record.taxonomy, tuned=tuned, about=about)

    @property
    def device(self) -> torch.device:
        """Return the device of the detector."""
        return self._scorer.device

    def __repr__(self) -> str:
        return f"Detector({self.about.name!r}, {len(self.taxonomy)} types, on {self.device})"

    def save_pretrained(self, folder: str | PathLike[str], *, merge: bool = False) -> None:
        """Write a folder that `from_pretrained` reads: JSON, safetensors and a model card.

        Args:
            folder: New or empty folder.
            merge: Whether to merge the adapters into the backbone's weights; this detector then has no adapters any
                more.

        Raises:
            ModelError: The folder is not empty, there is nothing to merge, or the backbone is no longer there.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ModelError(f"{folder}: holds something already; give a new folder, or empty it")
        folder.mkdir(parents=True, exist_ok=True)
        with without_other_bars():
            written = write_weights(
                folder,
                self._scorer.detector,
                self._scorer.encoder.processor,
                self._scorer.spec,
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
            model=model_record(replace(written.spec, prompt=self._scorer.encoder.prompt)),
            backbone=written.backbone,
            image_backend=IMAGE_BACKEND,
            heads=written.heads,
            files=written.files,
            figures=dict(self.about.figures),
            origin=dict(self.about.origin),
            packages=written.packages,
            check=None if self.about.check is None else dict(self.about.check),
            scoring=self.about.scoring,
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
        """Upload the detector to a repository on the hub, which is created if necessary.

        Args:
            repo_id: `owner/name`.
            private: Whether a new repository is private; None for the default of its owner.
            revision: Branch; None for the main branch.
            message: Message of the commit.
            token: Token of the hub; None for the one of `hf auth login`.

        Returns:
            The address of the commit.

        Raises:
            ModelError: It cannot be uploaded.
        """
        with TemporaryDirectory() as temporary:
            folder = Path(temporary, "detector")
            self.save_pretrained(folder)
            return upload(folder, repo_id, private=private, revision=revision, message=message, token=token)

    def predict(self, image: ImageLike, text: str, *, sentences: Ranges | None = None) -> Prediction:
        """Score one text about an image.

        Args:
            image: Path, PIL image, array of 8-bit pixels (height, width[, 1, 3 or 4]), or the bytes of an image file.
            text: One or many sentences, in any language that the backbone's tokenizer knows.
            sentences: Characters `[start, end)` of each sentence, in order; None to find them.

        Returns:
            Sentences with P(incorrect), marked spans, and the sentences that could not be scored. Texts that do not fit
            the backbone's window are read in overlapping windows (see `halspan.inference.windows`).

        Raises:
            DataError: The image cannot be read, the text is not a string, or a sentence does not fit it.
            ModelError: The image alone does not fit the window, or scores are not finite numbers.
        """
        task = Task.of(image, text, sentences)
        (answer,) = self._answer([task], BATCH_TOKENS, are_errors_given=False)
        return answer  # type: ignore[return-value]  # errors are raised

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
        """Yield the results of texts about images, in order.

        Items are scored in blocks of 256, or fewer where images in memory are large. Items of a block with the same
        image path, or the same bytes of an image file, share its encoding. While the model computes, a thread decodes
        and encodes images that follow, so about two blocks are read before their results; items themselves are read in
        the caller's thread. For single items that come slowly, use `predict`.

        Args:
            items: Pairs of image and text, or triples with the sentences; as for `predict`.
            batch_tokens: Largest number of tokens in a forward pass, padding and images included; it changes speed and
                memory, but no result.
            on_error: `raise` ends at the first item that cannot be scored, after the results of all items before it;
                `return` yields its error in the place of its result, and goes on.

        Raises:
            ConfigError: `on_error` is neither.
            DataError: As for `predict`; the message names the item.
            ModelError: As for `predict`; scores that are not finite are raised in either case.
        """
        if on_error not in get_args(OnError):
            raise ConfigError(f"on_error: must be 'raise' or 'return', got {on_error!r}")
        return self._answer(read_tasks(items), batch_tokens, are_errors_given=on_error == "return")

    def _answer(
        self, tasks: Iterable[Task | HalspanError], batch_tokens: int, *, are_errors_given: bool
    ) -> Iterator[Prediction | HalspanError]:
        answers = Answers(tasks, threshold=self.tuned.threshold, are_errors_given=are_errors_given)
        parts = self._scorer.score_blocks(answers.blocks(), ask, batch_tokens=batch_tokens)
        return answers.settle(in_order(parts), self._decide)

    def score_blocks(
        self,
        source: Iterable[Source],
        read: Callable[[Source], tuple[Block, Sequence[Asked]]],
        *,
        batch_tokens: int = BATCH_TOKENS,
        on_pass: Callable[[Cost], None] | None = None,
    ) -> Generator[Answered[Block, core.Prediction], None, None]:
        """Score blocks of captions, part by part; `halspan score` uses this method.

        Args:
            source: As for `halspan.inference.scorer.Scorer.score_blocks`.
            read: As there.
            batch_tokens: As for `predict_many`.
            on_pass: Function that is called with the cost of each forward pass.

        Returns:
            Generator of predictions. What cannot be scored is an error in the place of its prediction.
        """
        scored = self._scorer.score_blocks(
            source, read, batch_tokens=batch_tokens, is_failure_apart=True, on_pass=on_pass
        )
        with closing(scored) as parts:
            for part in parts:
                results = {
                    place: result if isinstance(result, HalspanError) else self._decide(result)
                    for place, result in part.results.items()
                }
                yield Answered(part.block, results, part.is_last)

    def _decide(self, scores: CaptionScores) -> core.Prediction:
        return next(predict([scores], self.tuned, self.taxonomy))

    def score(
        self, rows: Iterable[Row], *, read_image: ReadImage = load_image, batch_tokens: int = BATCH_TOKENS
    ) -> Iterator[core.Prediction]:
        """Score captions, in the order of the rows; rows of one image in a block of 256 captions share its encoding.

        Args:
            rows: Images with their captions; about two blocks are read ahead.
            read_image: Function that returns the RGB image of a row; it is called in another thread.
            batch_tokens: As for `predict_many`.

        Raises:
            DataError: An image cannot be read.
            ModelError: As for `predict`.
        """
        return predict(self.logits(rows, read_image=read_image, batch_tokens=batch_tokens), self.tuned, self.taxonomy)

    def logits(
        self, rows: Iterable[Row], *, read_image: ReadImage = load_image, batch_tokens: int = BATCH_TOKENS
    ) -> Iterator[CaptionScores]:
        """Yield the raw scores, before calibration and decisions; arguments as for `score`."""
        return self._scorer.score_rows(rows, read_image=read_image, batch_tokens=batch_tokens, are_images_shared=True)


def _read_tuned(folder: Path, record: DetectorRecord) -> Tuned:
    try:
        return Tuned.from_record(record.tuned)
    except ValueError as error:
        raise ModelError(
            f"{folder}: tuned: {record.tuned!r:.200} is not possible ({error}); export the detector again"
        ) from None
