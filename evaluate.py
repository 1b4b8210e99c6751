"""Judge a trained detector again: `python evaluate.py --help`."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

import configure
import usage
from halspan.core.errors import ConfigError, DataError, HalspanError
from halspan.core.files import write_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from halspan.core.captions import Caption
    from halspan.data.corpus import Corpus
    from halspan.data.rows import Row
    from halspan.inference.scoring import CaptionScores
    from halspan.inference.tuning import Tuned
    from halspan.models.detector import SpanDetector
    from halspan.models.encoding import RowEncoder
    from halspan.training.rundir import RunDirectory
    from halspan.training.spec import RunSpec

logger = logging.getLogger("halspan.evaluate")

HELD_OUT = "test_heldout"
_GREY = (128, 128, 128)


@hydra.main(version_base="1.3", config_path=str(usage.CONF), config_name="evaluate")
def main(config: DictConfig) -> None:
    """Score what a run was judged on once more, or another corpus."""
    try:
        judge_again(config)
    except HalspanError as error:
        sys.exit(configure.report_error(error))  # past hydra, which would add lines of its own


def judge_again(config: DictConfig) -> None:
    """Score what a run was judged on once more, or another corpus."""
    from halspan.inference.tuning import Tuned
    from halspan.training.rundir import RunDirectory

    configure.set_up_logging()
    configure.require_values(config)
    run = RunDirectory(Path(config.run))
    spec = _read_spec(run, config)
    split = json.loads(run.split.read_text(encoding="utf-8"))
    is_other = "_target_" in config.data
    corpus = spec.data.load().relocated(None)
    parts = _divide(corpus, split) if is_other else spec.split.apply(corpus).parts()
    folder = run.path / "evaluations" / corpus.name if is_other else run.path
    detector, encoder = _load_detector(spec, run, split["taxonomy"])
    metrics = judge(
        parts,
        detector=detector,
        encoder=encoder,
        corpus=corpus,
        taxonomy=split["taxonomy"],
        spec=spec,
        folder=folder,
        tuned=Tuned.from_record(json.loads(run.tuned.read_text(encoding="utf-8"))),
    )
    report(metrics, folder)


def judge(
    parts: Mapping[str, Sequence["Caption"]],
    *,
    detector: "SpanDetector",
    encoder: "RowEncoder",
    corpus: "Corpus",
    taxonomy: Sequence[str],
    spec: "RunSpec",
    folder: Path,
    tuned: "Tuned | None" = None,
) -> dict[str, Any]:
    """Score parts of a corpus and leave predictions, what was tuned, and `metrics.json` in a folder.

    Args:
        parts: captions by the name of their part; those of `train` are only what baselines are fitted on.
        detector: the trained detector.
        encoder: its encoder.
        corpus: where the captions are from.
        taxonomy: the detector's types; those of the corpus may be others.
        spec: the run's.
        folder: where everything goes.
        tuned: temperature and decoding; None tunes them on the part `val`.

    Returns:
        What `metrics.json` holds.
    """
    from halspan.data.blind import exchange_images
    from halspan.data.rows import group_rows
    from halspan.inference.evaluation import evaluate, evaluate_blind
    from halspan.reporting.baselines import judge_baselines

    group = partial(group_rows, corpus, max_captions=spec.trainer.captions_per_row)
    score = partial(score_rows, detector, encoder, spec)
    judged = {name: group(captions) for name, captions in parts.items() if name != "train" and captions}
    metrics, tuned = evaluate(judged, score=score, taxonomy=taxonomy, folder=folder / "predictions", tuned=tuned)
    if held_out := parts[HELD_OUT]:
        exchanged, kept = exchange_images(corpus, held_out, seed=spec.seed)
        metrics["blind"] = evaluate_blind(group(exchanged), score=score, tuned=tuned, taxonomy=taxonomy)
        if metrics["blind"]["sentence.auroc.macro"] is None:
            reasons = [f"{direction}: {reason}" for direction, reason in kept.items()] or ["one class only"]
            metrics["reasons"]["blind.sentence.auroc.macro"] = "; ".join(reasons)
        if train := parts.get("train"):
            metrics["baselines"], missing = judge_baselines(train, held_out)
            metrics["reasons"] |= missing
    write_json(folder / "tuned.json", tuned.to_record())
    write_json(folder / "metrics.json", metrics)
    return metrics


def score_rows(
    detector: "SpanDetector", encoder: "RowEncoder", spec: "RunSpec", rows: Sequence["Row"]
) -> Iterator["CaptionScores"]:
    """Score rows on the run's machine, with a progress bar."""
    import torch
    from rich.progress import track

    from halspan.inference.scoring import score

    device = torch.device("cuda" if spec.trainer.accelerator == "gpu" else "cpu")
    scores = score(
        detector.to(device),
        encoder,
        rows,
        read_image=partial(read_image, blank=spec.blank_images),
        rows_per_pass=spec.trainer.rows_per_pass or spec.trainer.rows_per_batch,
        autocast=torch.bfloat16 if spec.trainer.precision == "bf16-mixed" else None,
    )
    yield from track(scores, total=sum(len(row.captions) for row in rows), description="scoring", transient=True)


def read_image(path: Path, *, blank: bool) -> "Image":
    """Read an image, or give a grey one of its size."""
    from PIL import Image

    from halspan.data.images import load_image

    image = load_image(path)
    return Image.new("RGB", image.size, _GREY) if blank else image


def report(metrics: Mapping[str, Any], folder: Path) -> None:
    """Show the figures and where the files are."""
    from rich.console import Console

    from halspan.reporting.tables import metrics_table

    console = Console()
    console.print(metrics_table(metrics))
    console.print(f"Figures: {folder / 'metrics.json'}   predictions: {folder / 'predictions'}", soft_wrap=True)


def _read_spec(run: "RunDirectory", config: DictConfig) -> "RunSpec":
    """Read a run's configuration, with the machine and the corpus asked for."""
    if not (run.config.exists() and run.best.exists()):
        raise ConfigError(f"run: {str(run.path)!r} has no config.yaml and best.ckpt; give the folder of a trained run")
    if not run.tuned.exists():
        raise ConfigError(
            f"run: {str(run.path)!r} has not finished (no tuned.json); finish it first, with `python train.py "
            f"resume=true run_dir={run.path}` and the overrides that it was started with"
        )
    saved = OmegaConf.load(run.config)
    if "trainer" in config:
        saved.trainer = config.trainer
    if "_target_" in config.data:
        saved.data = config.data
    elif config.data.path is not None:
        saved.data.path = config.data.path
    return configure.build(saved)


def _load_detector(
    spec: "RunSpec", run: "RunDirectory", taxonomy: Sequence[str]
) -> tuple["SpanDetector", "RowEncoder"]:
    from halspan.models.detector import build_detector
    from halspan.training.fit import check_machine, seed_process
    from halspan.training.module import load_trained

    check_machine(spec.trainer)
    seed_process(spec.trainer, spec.seed)
    detector, encoder = build_detector(spec.model, taxonomy)
    load_trained(detector, run.best)
    return detector, encoder


def _divide(corpus: "Corpus", split: Mapping[str, Any]) -> dict[str, list["Caption"]]:
    """Divide another corpus by what the run was trained on; images of its train and val parts are left out.

    Raises:
        DataError: nothing is left.
    """
    known = {image for part in ("train", "val") for image in split["parts"][part]["images"]}
    parts: dict[str, list[Caption]] = {"test_seen": [], HELD_OUT: []}
    for caption in corpus.captions:
        if corpus.image_hash(caption) not in known:
            seen = caption.generator in split["generators"]["train"]
            parts["test_seen" if seen else HELD_OUT].append(caption)
    n_left = sum(len(captions) for captions in parts.values())
    if not n_left:
        raise DataError(f"data.path: the run was trained on all images of {corpus.name}; give a corpus with others")
    if n_known := len(corpus.captions) - n_left:
        logger.warning("left out %d captions of images that the run was trained on", n_known)
    return parts


if __name__ == "__main__":
    configure.run_entry(main, "evaluate")
