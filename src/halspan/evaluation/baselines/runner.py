"""Baselines, with or without a detector, judged on the same captions by the same code."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from halspan.console import track
from halspan.core.captions import Caption, Prediction
from halspan.core.cost import Cost
from halspan.core.errors import ConfigError, HalspanError
from halspan.data.corpus import Corpus
from halspan.data.images import load_image
from halspan.data.readers.jsonl import write_jsonl
from halspan.data.rows import group_rows
from halspan.data.split.contents import Contents, hash_json
from halspan.data.streams.predictions import match_truth, read_predictions
from halspan.evaluation.baselines.registry import NAMES, ModelBaseline, ModelSpecs, check_model, open_model
from halspan.evaluation.baselines.text_only import FITS, TITLES, out_of_fold, predict
from halspan.evaluation.figures import judge_row
from halspan.evaluation.saved_run import read_record
from halspan.metrics.self_preference import family_of_backbone

logger = logging.getLogger("halspan.baselines")

N_FOLDS = 5
_CAPTIONS_PER_ROW = 1000  # an image is read once for all its captions


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """The baselines to judge.

    Attributes:
        names: Names from `halspan.evaluation.baselines.registry`.
        specs: Specs of the baselines that are models.
        accelerator: `cpu` or `gpu`, for those models.
        required: Whether a baseline that fails is an error, as it is for baselines named on a command line.
    """

    names: Sequence[str]
    specs: Mapping[str, ModelSpecs] = field(default_factory=dict)
    accelerator: str = "cpu"
    required: bool = False

    def check(self) -> None:
        """Check, before anything is scored, that the models among the baselines can be loaded.

        Raises:
            ModelError: A model cannot be loaded.
        """
        for name, spec in self.specs.items():
            with _named(name):
                check_model(spec)


IMAGE_BLIND = Baselines(names=("prior", "position", "bow"))


class _Corpus(TypedDict):
    name: NotRequired[str]
    captions: NotRequired[int]
    digest: NotRequired[str]


class _Run(TypedDict):
    corpus: NotRequired[_Corpus | None]


_Row = TypedDict(
    "_Row",
    {
        "title": str,
        "sentence.auroc.macro": float | None,
        "sentence.auroc.by_generator": dict[str, float | None],
    },
)


class _Figures(TypedDict):
    """Content of a `metrics.json`, read before another one takes its place."""

    run: NotRequired[_Run | None]
    baselines: NotRequired[dict[str, _Row]]
    reasons: NotRequired[dict[str, str]]


_FIGURES = TypeAdapter(_Figures)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The captions and settings with which baselines are judged.

    Attributes:
        corpus: Corpus of the captions.
        train: Captions that trained the detector; if there are none of this corpus, baselines that learn are fitted on
            other images of `test`.
        test: Captions to judge on.
        part: Name of their part.
        folder: Folder of the results; predictions go to `baselines/<name>/` in it.
        seed: Seed of folds and bootstrap.
    """

    corpus: Corpus
    train: Sequence[Caption] = ()
    test: Sequence[Caption]
    part: str
    folder: Path
    seed: int

    @cached_property
    def digest(self) -> str:
        """Return one hash of everything that determines a baseline's scores and figures."""
        contents = [
            Contents.of(captions, {caption.id: self.corpus.image_hash(caption) for caption in captions}).digest
            for captions in (self.train, self.test)
        ]
        return hash_json([*contents, self.part, self.seed])

    def predictions(self, name: str) -> Path:
        """Return the folder for the predictions of a baseline."""
        return self.folder / "baselines" / name / f"{self.part}.jsonl"


def judge_beside(baselines: Baselines, ground: Ground) -> tuple[dict[str, Any], dict[str, str]]:
    """Judge baselines on the captions that a detector is judged on; files are written after all are judged.

    Baselines that are not requested keep their figures in the folder's `metrics.json` if these are of the same
    captions.

    Returns:
        The rows of `metrics.json`, and the reason for each row without figures.

    Raises:
        HalspanError: A required baseline fails.
    """
    rows, reasons = _read_kept(baselines, ground)
    predictions = {}
    for name in baselines.names:
        try:
            with _named(name):
                rows[name], predictions[name] = judge_one(name, baselines, ground)
        except HalspanError as error:
            if baselines.required:
                raise
            logger.warning("%s", error)
            rows[name] = {"title": name, "sentence.auroc.macro": None, "sentence.auroc.by_generator": {}}
            reasons[f"baselines.{name}.sentence.auroc.macro"] = str(error)
    for name, of_one in predictions.items():
        write_jsonl(ground.predictions(name), (item.to_record() for item in of_one))
    return {name: rows[name] for name in sorted(rows, key=NAMES.index)}, reasons


def judge_one(name: str, baselines: Baselines, ground: Ground) -> tuple[dict[str, Any], list[Prediction]]:
    """Judge one baseline; return its row of `metrics.json` and its predictions."""
    if name in baselines.specs:
        predictions, title, more = _ask_model(baselines, name, ground)
    else:
        predictions, title = _learn(name, ground)
        more = {}
    images = [ground.corpus.image_hash(item.caption) for item in predictions]
    return judge_row(title, predictions, images=images, seed=ground.seed, **more), predictions


def read_back(name: str, ground: Ground) -> list[Prediction]:
    """Read the predictions of a baseline that `judge_beside` has judged."""
    return list(match_truth(ground.test, read_predictions(ground.predictions(name))).predictions)


def _read_kept(baselines: Baselines, ground: Ground) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the rows and reasons of baselines that were judged on the same captions and are not requested."""
    metrics = read_metrics(ground.folder)
    others = [name for name in metrics.get("baselines") or () if name not in baselines.names and name in NAMES]
    others = [name for name in others if ground.predictions(name).is_file()]
    if not others:
        return {}, {}
    if (metrics.get("run") or {}).get("ground") != ground.digest:
        logger.warning(
            "baselines %s: %s does not say that they were judged on these captions, so they are left out; name them "
            "too to judge them again",
            ", ".join(others),
            ground.folder / "metrics.json",
        )
        return {}, {}
    starts = tuple(f"baselines.{name}." for name in others)
    reasons = {path: why for path, why in metrics.get("reasons", {}).items() if path.startswith(starts)}
    return {name: metrics["baselines"][name] for name in others}, reasons


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read the figures in a folder; empty where there are none, or none that can be read."""
    try:
        metrics = read_record(folder / "metrics.json")
        _FIGURES.validate_python(metrics)
    except (ConfigError, ValidationError):
        return {}
    return metrics


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Add the name of a baseline to an error."""
    try:
        yield
    except HalspanError as error:
        raise type(error)(f"baseline {name}: {error}") from error


def _learn(name: str, ground: Ground) -> tuple[list[Prediction], str]:
    """Fit a baseline on training captions or, where there are none, on the captions of other images."""
    if ground.train:
        return predict(FITS[name](ground.train), ground.test), TITLES[name]
    images = [ground.corpus.image_hash(caption) for caption in ground.test]
    title = f"{TITLES[name]}, {N_FOLDS} folds"
    return out_of_fold(ground.test, images, FITS[name], n_folds=N_FOLDS, seed=ground.seed), title


def _ask_model(baselines: Baselines, name: str, ground: Ground) -> tuple[list[Prediction], str, dict[str, Any]]:

    model = open_model(baselines.specs[name], device="cuda" if baselines.accelerator == "gpu" else "cpu")
    predictions, costs = zip(*_track(model, name, ground), strict=True)
    return (
        list(predictions),
        model.title,
        {
            "cost": sum(costs, Cost()).to_record(),
            "family": family_of_backbone(model.model_type),
            "random_weights": model.random_weights,
        },
    )


def _track(model: ModelBaseline, name: str, ground: Ground) -> Iterator[tuple[Prediction, Cost]]:

    rows = group_rows(ground.corpus, ground.test, max_captions=_CAPTIONS_PER_ROW)
    scored = model.score(rows, read_image=load_image)
    yield from track(scored, f"scoring {name}", total=len(ground.test))
