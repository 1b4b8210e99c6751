"""`halspan judge` and `halspan compare`: figures of predictions from any source."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halspan.cli.corpora import AUTO, FormatOption, ImagesOption, OnProblem, load_corpus
from halspan.console import new_table, open_console
from halspan.core.errors import ConfigError, DataError
from halspan.core.files import write_json, written_to
from halspan.data.streams.lines import DASH

if TYPE_CHECKING:  # imported where they are used, to keep `halspan --help` fast
    from halspan.console import WholeTable
    from halspan.core.captions import Prediction
    from halspan.data.corpus import Corpus
    from halspan.metrics.bootstrap import Difference

logger = logging.getLogger(__name__)

_PART = "all"
_Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")]


def judge(
    predictions: Annotated[
        Path, typer.Argument(help="JSON Lines of captions with `p_incorrect` and `predicted`; - reads standard input.")
    ],
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help="Corpus with the labels to judge by. Default: the labels in the file itself."),
    ] = None,
    format_: FormatOption = AUTO,
    images: ImagesOption = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder for metrics.json and report.html. Default: a folder next to the file."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0,
            max=1,
            help="P(incorrect) from which a sentence is called incorrect. Default: that of the predictions, or 0.5.",
        ),
    ] = None,
    seed: _Seed = 1,
) -> None:
    """Judge the predictions of any detector: write metrics.json and report.html, and print a table.

    Captions of the truth without a prediction count as unscored.
    Predictions for other captions are left out. Images appear in the report,
    and tell which captions belong together; missing ones are told apart by
    their paths.

    Examples:
      halspan judge scored.jsonl
      halspan judge scored.jsonl --truth AlignBench/ --to judged/
    """
    from halspan.app.results import leave_figures
    from halspan.data.streams.lines import STDIN, without_suffixes
    from halspan.data.streams.predictions import common_threshold, read_predictions
    from halspan.evaluation.figures import judge_part
    from halspan.evaluation.origin import describe_run
    from halspan.evaluation.saved_run import check_results
    from halspan.reporting.tables import metrics_table

    predictions, stream = (STDIN, sys.stdin.buffer) if predictions == DASH else (predictions, None)
    if stream is not None and (to is None or truth == DASH):
        raise ConfigError("--to: standard input has no folder and is read once; give a folder, and --truth as a file")
    folder = without_suffixes(predictions) if to is None else to
    if to is None:
        check_results(folder)
    judged: Sequence[Prediction] = read_predictions(predictions, stream=stream)
    if truth is not None:
        corpus = load_corpus(truth, format_, images, OnProblem.stop, OnProblem.skip, check_images=False).relocated(None)
        judged = _match(corpus, judged)
    threshold = common_threshold(judged) if threshold is None else threshold
    figures, reasons = judge_part(judged, images=_image_keys(judged), threshold=threshold, seed=seed)
    name = without_suffixes(predictions).name
    metrics = {
        _PART: figures,
        "run": describe_run(),
        "detector": {"name": name},
        "reasons": {f"{_PART}.{path}": reason for path, reason in reasons.items()},
    }
    with written_to("--to", folder):
        has_report = leave_figures(metrics, {_PART: judged}, folder)
    console = open_console()
    console.print(metrics_table(metrics))
    report = f"   report: {folder / 'report.html'}" if has_report else ""
    console.print(f"Figures: {folder / 'metrics.json'}{report}", soft_wrap=True)


def _match(truth: "Corpus", predictions: "Sequence[Prediction]") -> "Sequence[Prediction]":
    """Return predictions with the labels of the truth, and say how many captions only one of both has."""
    from halspan.data.streams.predictions import match_truth

    matched = match_truth(truth.captions, predictions)
    _say_omitted(matched.missing, "captions without a prediction, judged as unscored")
    _say_omitted(matched.unknown, "predictions for captions that are not in the truth, left out")
    return matched.predictions


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run, an evaluation or a baseline, or a file of predictions.")],
    b: Annotated[Path, typer.Argument(help="The same for the other detector.")],
    part: Annotated[str, typer.Option("--part", help="Part of a folder's predictions to compare.")] = "test_heldout",
    resamples: Annotated[
        int, typer.Option("--resamples", min=100, help="Number of bootstrap samples of images.")
    ] = 1000,
    seed: _Seed = 0,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the differences to this file.")] = None,
) -> None:
    """Compare two detectors on the same captions: paired differences with 95 % intervals, and P(A better).

    Each draw of the bootstrap takes whole images, with all their captions,
    and the same images for both detectors. P(A better) is the share of draws
    in which A has the better figure.

    Examples:
      halspan compare checkpoints/shapes-seed=1 checkpoints/shapes-seed=2
      halspan compare checkpoints/shapes checkpoints/shapes/baselines/bow
      halspan compare a.jsonl b.jsonl --json difference.json
    """
    from dataclasses import asdict

    from halspan.data.streams.predictions import find_predictions, pair, read_predictions
    from halspan.metrics import bootstrap

    files = [find_predictions(path, part) for path in (a, b)]
    first, second = (read_predictions(file) for file in files)
    pairs = pair(first, second)
    for file, predictions in zip(files, (first, second), strict=True):
        if n_alone := len(predictions) - len(pairs):
            logger.warning("left out: %d captions of %s that the other has no prediction for", n_alone, file)
    ours, others = zip(*pairs, strict=True)
    differences = bootstrap.compare(ours, others, images=_image_keys(ours), n_resamples=resamples, seed=seed)
    console = open_console()
    console.print(f"A: {files[0]}", f"B: {files[1]}", f"{len(pairs):,} captions", sep="\n", soft_wrap=True)
    console.print(_difference_table(differences))
    if json_ is not None:
        listed = {name: asdict(difference) for name, difference in differences.items()}
        with written_to("--json", json_):
            write_json(json_, {"a": str(files[0]), "b": str(files[1]), "captions": len(pairs), "differences": listed})
        console.print(f"Written to {json_}.", soft_wrap=True)


def _difference_table(differences: Mapping[str, "Difference"]) -> "WholeTable":
    table = new_table("A against B", "figure", "A", "B", "A - B", "95 % interval", "P(A better)")
    for path, d in differences.items():
        limits = "" if d.low is None or d.high is None else f"{d.low:+.3f} to {d.high:+.3f}"
        table.add_row(path, _figure(d.a), _figure(d.b), _figure(d.difference, sign="+"), limits, _figure(d.p_a_better))
    return table


def _figure(value: float | None, *, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def _image_keys(predictions: Sequence["Prediction"]) -> list[str]:
    """Return a key for each image: a hash of its content or, where it cannot be read, its path (logged)."""
    from halspan.data.images import content_hash

    keys: dict[str, str] = {}
    problems: list[str] = []
    for image in dict.fromkeys(prediction.caption.image for prediction in predictions):
        try:
            keys[image] = content_hash(Path(image))
        except DataError as error:
            keys[image] = f"path {image}"
            problems.append(str(error))
    if problems:
        logger.warning(
            "%d of %d images are told apart by their path, not their content: %s", len(problems), len(keys), problems[0]
        )
    return [keys[prediction.caption.image] for prediction in predictions]


def _say_omitted(ids: Sequence[str], what: str) -> None:
    if ids:
        logger.warning("%d %s, such as %r", len(ids), what, ids[0])
