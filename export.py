"""Write a trained detector into a folder that loads anywhere: `python export.py --help`."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

import configure
import judge
import usage
from evaluate import FinishedRun, read_figures
from halspan.core.errors import ConfigError, HalspanError, ModelError

if TYPE_CHECKING:
    from halspan.core.captions import Prediction
    from halspan.inference.pretrained import About, Detector
    from halspan.models.detector import SpanDetector
    from halspan.models.encoding import RowEncoder
    from halspan.models.spec import ModelSpec

logger = logging.getLogger("halspan.export")

_PARTS = (judge.HELD_OUT, "test_seen", judge.VAL)  # the first that the run has is compared
_SAME_RUN = 0.005  # mean difference of P(incorrect); measured: 1e-9 on the same machine, 0.0013 with dtype=bfloat16
_DTYPES = ("float32", "bfloat16")


@hydra.main(version_base="1.3", config_path=str(usage.CONF), config_name="export")
def main(config: DictConfig) -> None:
    """Export a detector."""
    try:
        export(config)
    except HalspanError as error:
        sys.exit(configure.report_error(error))  # past hydra, which would add lines of its own


def export(config: DictConfig) -> None:
    """Export a detector; its folder appears once it scores as the live one does."""
    from halspan.console import open_console

    configure.set_up_logging()
    configure.require_values(config)
    _check_values(config)
    with _new_folder(Path(config.to), overwrite=config.overwrite) as folder:
        run = FinishedRun.read(Path(config.run), config)
        check = _write(run, folder, config)
    kind = "merged" if config.merge else "adapters"
    open_console().print(
        f"{config.to}: {kind}; scores of {check['captions']} captions by it and by the live detector differ by "
        f"{check['largest_difference']:.1e} at most (allowed: {check['tolerance']:.0e})",
        soft_wrap=True,
    )


@dataclass(frozen=True)
class _Samples:
    """What the folder is compared on.

    Attributes:
        predictions: of the run, with complete paths of images.
        are_real: whether the images are those that the run saw.
    """

    predictions: Sequence["Prediction"]
    are_real: bool


def _check_values(config: DictConfig) -> None:
    for key in ("merge", "overwrite"):
        if not isinstance(config[key], bool):
            raise ConfigError(f"{key}: {config[key]!r} is not possible; possible: true, false")
    if config.dtype not in (None, *_DTYPES):
        raise ConfigError(f"dtype: {config.dtype!r} is not possible; possible: null, {', '.join(_DTYPES)}")
    if not isinstance(config.captions, int) or config.captions < 1:
        raise ConfigError(f"captions: {config.captions!r} is not possible; give a number from 1 on")


@contextmanager
def _new_folder(place: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a folder beside a place; it is moved there when the block ends well, and is gone when it does not."""
    if place.exists() and not overwrite:
        raise ConfigError(f"to: {place} is there already; add overwrite=true to replace it, or choose another folder")
    if place.exists() and not (place / "detector.json").is_file() and any(place.iterdir()):
        raise ConfigError(f"to: {place} holds something else than a detector; choose another folder")
    temporary, old = (place.with_name(f".{place.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if place.exists():
            place.rename(old)
        temporary.rename(place)
    except OSError as error:
        raise ConfigError(f"to: {place} cannot be written ({error}); choose another place") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write(run: FinishedRun, folder: Path, config: DictConfig) -> dict[str, Any]:
    """Build the live detector, write it, and compare the two; give how that came out."""
    from halspan.inference.card import write_card
    from halspan.inference.verify import ADAPTERS_WITHIN, MERGED_WITHIN, compare_with_folder, score_each
    from halspan.models.record import DetectorRecord

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
        del live, detector  # a large one has no room for a second
        record = DetectorRecord.read(folder)
        within = MERGED_WITHIN[record.model["dtype"]] if config.merge else ADAPTERS_WITHIN
        largest = compare_with_folder(folder, captions, scores, device=device, within=within)
    check = {"captions": len(captions), "largest_difference": largest, "tolerance": within}
    record = replace(record, check=check)
    record.write(folder)
    write_card(folder, record)
    return check


def _load(run: FinishedRun, config: DictConfig) -> tuple[tuple["SpanDetector", "RowEncoder"], "ModelSpec"]:
    """Build the run's detector on the backbone that it was trained on."""
    import torch

    from halspan.models.detector import build_detector
    from halspan.models.export import identify_backbone
    from halspan.training.fit import check_machine, seed_process
    from halspan.training.module import load_trained

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
    device = torch.device("cuda" if run.spec.trainer.accelerator == "gpu" else "cpu")
    return (detector.to(device), encoder), spec


def _as_live(
    run: FinishedRun, parts: tuple["SpanDetector", "RowEncoder"], spec: "ModelSpec", *, about: "About"
) -> "Detector":
    from halspan.inference.pretrained import Detector

    return Detector(*parts, spec=spec, taxonomy=run.split["taxonomy"], tuned=run.tuned, about=about)


def _about(run: FinishedRun, metrics: Mapping[str, Any]) -> "About":
    from halspan.inference.card import headline
    from halspan.inference.pretrained import About

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
    return About(name=run.place.path.resolve().name, figures=headline(metrics), origin=origin)


def _choose_samples(run: FinishedRun, config: DictConfig, temporary: Path) -> _Samples:
    """Take the first predictions of the run's test part; where their images are gone, with drawn ones."""
    from PIL import Image

    from halspan.core.captions import Prediction
    from halspan.data.corpus import Skips
    from halspan.data.jsonl import read_objects

    files = [run.place.predictions / f"{part}.jsonl" for part in _PARTS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ConfigError(f"run: {run.place.path} has no predictions/; finish it first (python train.py resume=true)")
    first = [Prediction.from_record(of) for _, of in islice(read_objects(file, Skips("raise")), config.captions)]
    places = {item.caption.id: file.parent / item.caption.image for item in first}
    if config.data.path is not None:
        corpus = run.own.data.load()
        places = {caption.id: corpus.image_path(caption).resolve() for caption in corpus.captions}
    if are_real := all(item.caption.id in places and places[item.caption.id].is_file() for item in first):
        images = [places[item.caption.id] for item in first]
    else:
        logger.warning("images of the test part are gone: compared on a drawn one (data.path=... says where they are)")
        images = [temporary / "drawn.png"] * len(first)
        Image.linear_gradient("L").convert("RGB").save(images[0])
    pairs = zip(first, images, strict=True)
    return _Samples([replace(item, caption=replace(item.caption, image=str(image))) for item, image in pairs], are_real)


def _check_same_run(run: FinishedRun, parts: tuple["SpanDetector", "RowEncoder"], samples: _Samples) -> None:
    """Require that the detector says what it said at the end of its run.

    Raises:
        ModelError: it does not: its backbone, its taxonomy or its checkpoint is another one.
    """
    import torch

    from halspan.data.blind import read_image
    from halspan.data.rows import Row
    from halspan.inference.scoring import score
    from halspan.inference.tuning import predict

    rows = [Row(Path(item.caption.image), (item.caption,)) for item in samples.predictions]
    scores = score(
        *parts,
        rows,
        read_image=partial(read_image, blank=run.spec.blank_images),
        rows_per_pass=1,
        autocast=torch.bfloat16 if run.spec.trainer.precision == "bf16-mixed" else None,
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


if __name__ == "__main__":
    configure.run_entry(main, "export")
