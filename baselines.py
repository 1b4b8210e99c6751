"""Baselines beside a detector, or alone: what train.py and evaluate.py share about them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halspan.core.errors import HalspanError

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
    """

    names: Sequence[str]
    specs: "Mapping[str, ModelSpecs]" = field(default_factory=dict)
    accelerator: str = "cpu"


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


def judge_beside(baselines: Baselines, ground: Ground) -> tuple[dict[str, Any], dict[str, str]]:
    """Judge baselines on the captions that a detector is judged on; one that fails has no figures.

    Returns:
        The rows of `metrics.json`, and why one has no figures.
    """
    rows, reasons = {}, {}
    for name in baselines.names:
        try:
            rows[name], _ = judge_one(name, baselines, ground)
        except HalspanError as error:
            logger.warning("baseline %s: %s", name, error)
            rows[name] = {"title": name, "sentence.auroc.macro": None, "sentence.auroc.by_generator": {}}
            reasons[f"baselines.{name}.sentence.auroc.macro"] = str(error)
    return rows, reasons


def judge_one(name: str, baselines: Baselines, ground: Ground) -> "tuple[dict[str, Any], list[Prediction]]":
    """Judge one baseline; give its row of `metrics.json` and its predictions."""
    from halspan.data.jsonl import write_jsonl
    from halspan.inference.evaluation import judge_row

    if name in baselines.specs:
        predictions, title, more = _ask_model(baselines, name, ground)
    else:
        predictions, title = _learn(name, ground)
        more = {}
    file = ground.folder / "baselines" / name / f"{ground.part}.jsonl"
    write_jsonl(file, (item.to_record() for item in predictions))
    images = [ground.corpus.image_hash(item.caption) for item in predictions]
    return judge_row(title, predictions, images=images, seed=ground.seed, **more), predictions


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
