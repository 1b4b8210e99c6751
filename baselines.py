"""Baselines beside a detector, or alone: what train.py and evaluate.py share about them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halspan.core.errors import ConfigError, HalspanError

if TYPE_CHECKING:
    from halspan.baselines.registry import ModelBaseline, ModelSpecs
    from halspan.core.captions import Caption, Prediction
    from halspan.core.cost import Cost
    from halspan.data.corpus import Corpus

logger = logging.getLogger("halspan.baselines")

N_FOLDS = 5
_CAPTIONS_PER_ROW = 1000  # an image is read once for all its captions


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Which baselines to judge.

    Attributes:
        names: of `halspan.baselines.registry`.
        specs: of those that are models.
        accelerator: `cpu` or `gpu`, for those.
        required: whether one that fails is an error, as it is for those that a command line names.
    """

    names: Sequence[str]
    specs: "Mapping[str, ModelSpecs]" = field(default_factory=dict)
    accelerator: str = "cpu"
    required: bool = False

    def check(self) -> None:
        """Make sure, before anything is scored, that the models among them can be loaded.

        Raises:
            ModelError: one cannot.
        """
        from halspan.baselines.registry import check_model

        for name, spec in self.specs.items():
            with _named(name):
                check_model(spec)


IMAGE_BLIND = Baselines(names=("prior", "position", "bow"))


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What baselines are judged on.

    Attributes:
        corpus: where the captions are from.
        train: what trained the detector beside them; where there is nothing of this corpus, baselines that learn are
            fitted on other images of `test`.
        test: what is judged.
        part: its name.
        folder: of the results; predictions go to `baselines/<name>/` in it.
        seed: of folds and bootstrap.
    """

    corpus: "Corpus"
    train: "Sequence[Caption]" = ()
    test: "Sequence[Caption]"
    part: str
    folder: Path
    seed: int

    @cached_property
    def digest(self) -> str:
        """One hash of everything that decides what a baseline says and which figures that gives."""
        from halspan.data.contents import Contents, hash_json

        contents = [
            Contents.of(captions, {caption.id: self.corpus.image_hash(caption) for caption in captions}).digest
            for captions in (self.train, self.test)
        ]
        return hash_json([*contents, self.part, self.seed])

    def predictions(self, name: str) -> Path:
        """Where the predictions of a baseline go."""
        return self.folder / "baselines" / name / f"{self.part}.jsonl"


def judge_beside(baselines: Baselines, ground: Ground) -> tuple[dict[str, Any], dict[str, str]]:
    """Judge baselines on the captions that a detector is judged on; files are written when all have been judged.

    Baselines with figures in the folder's `metrics.json` on the same captions, which are not among those asked for,
    keep them.

    Returns:
        The rows of `metrics.json`, and why one has no figures.

    Raises:
        HalspanError: a baseline that is required fails.
    """
    from halspan.baselines.registry import NAMES
    from halspan.data.jsonl import write_jsonl

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


def judge_one(name: str, baselines: Baselines, ground: Ground) -> "tuple[dict[str, Any], list[Prediction]]":
    """Judge one baseline; give its row of `metrics.json` and its predictions."""
    from halspan.inference.evaluation import judge_row

    if name in baselines.specs:
        predictions, title, more = _ask_model(baselines, name, ground)
    else:
        predictions, title = _learn(name, ground)
        more = {}
    images = [ground.corpus.image_hash(item.caption) for item in predictions]
    return judge_row(title, predictions, images=images, seed=ground.seed, **more), predictions


def read_back(name: str, ground: Ground) -> "list[Prediction]":
    """Read the predictions of a baseline that `judge_beside` gave a row."""
    from halspan.data.predictions import match_truth, read_predictions

    return list(match_truth(ground.test, read_predictions(ground.predictions(name))).predictions)


def _read_kept(baselines: Baselines, ground: Ground) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the rows, and their reasons, of baselines that were judged on the same captions and are not asked for."""
    from halspan.baselines.registry import NAMES

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
    reasons = {path: why for path, why in metrics["reasons"].items() if path.startswith(starts)}
    return {name: metrics["baselines"][name] for name in others}, reasons


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read the figures that a folder has; empty where it has none, or none that can be read."""
    from halspan.training.saved_run import read_record

    try:
        return read_record(folder / "metrics.json")
    except ConfigError:
        return {}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the baseline that an error is about."""
    try:
        yield
    except HalspanError as error:
        raise type(error)(f"baseline {name}: {error}") from error


def _learn(name: str, ground: Ground) -> "tuple[list[Prediction], str]":
    """Fit a baseline on training captions or, where there are none, on the captions of other images."""
    from halspan.baselines.blind import FITS, TITLES, out_of_fold, predict

    if ground.train:
        return predict(FITS[name](ground.train), ground.test), TITLES[name]
    images = [ground.corpus.image_hash(caption) for caption in ground.test]
    title = f"{TITLES[name]}, {N_FOLDS} folds"
    return out_of_fold(ground.test, images, FITS[name], n_folds=N_FOLDS, seed=ground.seed), title


def _ask_model(baselines: Baselines, name: str, ground: Ground) -> "tuple[list[Prediction], str, dict[str, Any]]":
    from halspan.baselines.registry import open_model
    from halspan.core.cost import Cost
    from halspan.metrics.self_preference import family_of_backbone

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


def _track(model: "ModelBaseline", name: str, ground: Ground) -> "Iterator[tuple[Prediction, Cost]]":
    from halspan.console import track
    from halspan.data.images import load_image
    from halspan.data.rows import group_rows

    rows = group_rows(ground.corpus, ground.test, max_captions=_CAPTIONS_PER_ROW)
    scored = model.score(rows, read_image=load_image)
    yield from track(scored, f"scoring {name}", total=len(ground.test))
