"""Export of a run's detector, and the check of the result against the original. Its imports take seconds."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from halspan.app.finished_run import FinishedRun
from halspan.app.fitting import tokens_per_pass
from halspan.app.results import read_figures
from halspan.core.captions import Prediction
from halspan.core.errors import ConfigError, ModelError
from halspan.data.controls import read_image
from halspan.data.corpus import Skips
from halspan.data.readers.jsonl import read_objects
from halspan.data.rows import Row
from halspan.data.split.parts import HELD_OUT, TEST_SEEN, VAL
from halspan.inference.card import headline, write_card
from halspan.inference.comparison import ADAPTERS_WITHIN, MERGED_WITHIN, compare_with_folder, score_each
from halspan.inference.detector import About, Detector
from halspan.inference.scorer import Scorer
from halspan.inference.tuning import predict
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.devices import find_device
from halspan.models.folder.record import DetectorRecord, ScoringRecord
from halspan.models.folder.write import identify_backbone
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import ModelSpec
from halspan.training.fit import check_machine, seed_process
from halspan.training.module import load_trained

logger = logging.getLogger(__name__)

_PARTS = (HELD_OUT, TEST_SEEN, VAL)  # in order of preference; the first one in the run is compared
_SAME_RUN = 0.005  # mean difference of P(incorrect); measured: 1e-9 on the same machine, 0.0013 with dtype=bfloat16


@dataclass(frozen=True)
class _Samples:
    """The captions on which the exported folder is compared with the original.

    Attributes:
        predictions: Predictions of the run, with complete image paths.
        are_real: Whether the images are those that the run saw.
    """

    predictions: Sequence[Prediction]
    are_real: bool


def write_detector(run: FinishedRun, folder: Path, config: DictConfig) -> dict[str, Any]:
    """Build the live detector, write it, and return the result of comparing the two."""
    metrics = read_figures(run.place.metrics) if run.place.metrics.exists() else {}
    detector, spec = _load(run, config)
    with TemporaryDirectory() as temporary:
        samples = _choose_samples(run, config, Path(temporary))
        if samples.are_real:
            _check_same_run(run, detector, samples)
        live = _as_live(run, detector, spec, about=_about(run, metrics))
        captions = [item.caption for item in samples.predictions]
        scores, device = score_each(live, captions), live.device
        live.save_pretrained(folder, merge=config.merge)
        del live, detector  # memory may not have room for two large ones
        record = DetectorRecord.read(folder)
        within = MERGED_WITHIN[record.model["dtype"]] if config.merge else ADAPTERS_WITHIN
        largest = compare_with_folder(folder, captions, scores, device=device, within=within)
    check = {"captions": len(captions), "largest_difference": largest, "tolerance": within}
    record = replace(record, check=check)
    record.write(folder)
    write_card(folder, record)
    return check


def _load(run: FinishedRun, config: DictConfig) -> tuple[tuple[SpanDetector, RowEncoder], ModelSpec]:
    """Build the run's detector on the backbone that it was trained on."""
    spec = run.spec.model if config.dtype is None else replace(run.spec.model, dtype=config.dtype)
    if (trained_on := run.split.get("backbone")) is not None:
        here = identify_backbone(spec)
        for key, value in trained_on.items():
            if here.get(key) != value:
                raise ModelError(
                    f"model.backbone: {spec.backbone!r} has {key} {here.get(key)}, and the run was trained on {value}; "
                    "restore that revision"
                )
    check_machine(run.spec.trainer)
    seed_process(run.spec.trainer, run.spec.seed)
    detector, encoder = build_detector(spec, run.split["taxonomy"])
    load_trained(detector, run.place.best)
    return (detector.to(find_device("cuda" if run.spec.trainer.accelerator == "gpu" else "cpu")), encoder), spec


def _as_live(run: FinishedRun, parts: tuple[SpanDetector, RowEncoder], spec: ModelSpec, *, about: About) -> Detector:
    return Detector(*parts, spec=spec, taxonomy=run.split["taxonomy"], tuned=run.tuned, about=about)


def _about(run: FinishedRun, metrics: Mapping[str, Any]) -> About:
    source = {key: Path(value).name if key == "path" else value for key, value in run.split["source"].items()}
    generators = run.split["generators"]
    counts = {part: f"{len(of['captions']):,} captions" for part, of in run.split["parts"].items()}
    origin = {
        "Data": source,
        "Generators trained on": list(generators["train"]),
        "Generators held out": list(generators["held_out"]),
        "Split": counts,
        "Seed": run.spec.seed,
    }
    return About(
        name=run.place.path.resolve().name,
        figures=headline(metrics),
        origin=origin,
        scoring=_read_scoring(metrics.get("detector")),
    )


def _read_scoring(detector: Any) -> ScoringRecord | None:
    """Read how the run scored when it was judged; None where its figures do not say, as those of earlier versions."""
    try:
        return TypeAdapter(ScoringRecord).validate_python(detector["scoring"])
    except (KeyError, TypeError, ValidationError):
        return None


def _choose_samples(run: FinishedRun, config: DictConfig, temporary: Path) -> _Samples:
    """Return the first predictions of the run's test part, with drawn images where the real ones are gone."""
    files = [run.place.predictions / f"{part}.jsonl" for part in _PARTS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ConfigError(f"run: {run.place.path} has no predictions/; finish it first (python train.py resume=true)")
    first = [Prediction.from_record(of) for _, of in islice(read_objects(file, Skips("raise")), config.captions)]
    places = {item.caption.id: file.parent / item.caption.image for item in first}
    if config.data.path is not None:
        corpus = run.own.data.load()
        places = {caption.id: corpus.image_path(caption).resolve() for caption in corpus.captions}
    # os.path answers where Path raises: a name that is too long, a zero byte
    if are_real := all(item.caption.id in places and os.path.isfile(places[item.caption.id]) for item in first):  # noqa: PTH113
        images = [places[item.caption.id] for item in first]
    else:
        logger.warning("images of the test part are gone: compared on a drawn one (set data.path=... to their place)")
        images = [temporary / "drawn.png"] * len(first)
        Image.linear_gradient("L").convert("RGB").save(images[0])
    pairs = zip(first, images, strict=True)
    return _Samples([replace(item, caption=replace(item.caption, image=str(image))) for item, image in pairs], are_real)


def _check_same_run(run: FinishedRun, parts: tuple[SpanDetector, RowEncoder], samples: _Samples) -> None:
    """Require that the detector gives the same scores as at the end of its run.

    Raises:
        ModelError: The scores differ, because the backbone, the taxonomy or the checkpoint is another one.
    """
    rows = [Row(Path(item.caption.image), (item.caption,)) for item in samples.predictions]
    scores = Scorer(*parts, run.spec.model).score_rows(
        rows, read_image=partial(read_image, blank=run.spec.blank_images), batch_tokens=tokens_per_pass(run.spec)
    )
    again = list(predict(scores, run.tuned, run.split["taxonomy"]))
    differences = [
        abs((now.p_incorrect or 0) - (then.p_incorrect or 0))
        for one, other in zip(again, samples.predictions, strict=True)
        for now, then in zip(one.sentences, other.sentences, strict=True)
    ]
    mean = sum(differences) / max(1, len(differences))
    then = {(n, span.start, span.end): span.type for n, item in enumerate(samples.predictions) for span in item.spans}
    now = {(n, span.start, span.end): span.type for n, item in enumerate(again) for span in item.spans}
    same = [now[place] == then[place] for place in now.keys() & then.keys()]
    if mean > _SAME_RUN or sum(same) < len(same) / 2:
        raise ModelError(
            f"run: {run.place.path}: the detector no longer says what it said at the end of its run (P(incorrect) "
            f"differs by {mean:.3f} on average, {sum(same)} of {len(same)} spans have the same type): its backbone, "
            "best.ckpt, tuned.json or the taxonomy in split.json is another one; restore it, or judge the run again "
            "(evaluate.py)"
        )
