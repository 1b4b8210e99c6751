"""Loading a detector from its folder: only JSON and safetensors are read, and every difference is reported."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from halspan.core.errors import ModelError
from halspan.models.backbones.loading import read_config
from halspan.models.backbones.shards import INDEX, WHOLE, fingerprint
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.folder.record import DETECTOR, DetectorRecord, made_with
from halspan.models.folder.safe_files import check_folder, read_header, read_json, refuse_run
from halspan.models.folder.write import ADAPTER, ADAPTER_CONFIG, HEADS, TAXONOMY, hash_of
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import ModelSpec

DTypeName = Literal["float32", "bfloat16"]

_WEIGHTS = (HEADS, ADAPTER, ADAPTER_CONFIG)
_OF_ADAPTERS = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "target_parameters")


def load_detector(
    folder: Path, *, device: torch.device, dtype: DTypeName | None = None, blobs: Path | None = None
) -> tuple[SpanDetector, RowEncoder, ModelSpec, DetectorRecord]:
    """Load a detector that `halspan.models.folder.write` wrote.

    Args:
        folder: Folder of the detector.
        device: Device of the detector.
        dtype: Type of the frozen weights; None for the recorded one.
        blobs: Folder into which symbolic links may lead, too (see `check_folder`).

    Returns:
        The detector in evaluation mode, its encoder, its spec, and its record.

    Raises:
        ModelError: A file is missing, unsafe or damaged, or differs from the record; the message names the difference.
    """
    refuse_run(folder)
    check_folder(folder, blobs=blobs)
    record = DetectorRecord.read(folder)
    _check_nothing_more(folder, record)
    _check_files(folder, record, [name for name in record.files if name not in _WEIGHTS])
    spec = record.spec(_place_of_backbone(folder, record))
    _check_backbone(spec, record)
    if dtype is not None:
        spec = ModelSpec(**(spec.__dict__ | {"dtype": dtype}))
    with torch.random.fork_rng(devices=[]):  # new adapters and heads draw random numbers before they are replaced
        detector, encoder = build_detector(spec, record.taxonomy, processor=str(folder))
    _load_heads(detector, folder, record)
    if record.kind == "adapter":
        _load_adapters(detector, folder)
    _check_files(folder, record, [name for name in record.files if name in _WEIGHTS])
    return detector.requires_grad_(False).eval().to(device), encoder, spec, record


def _place_of_backbone(folder: Path, record: DetectorRecord) -> str:
    backbone = record.backbone
    if (backbone.folder == ".") != (record.kind == "merged"):
        raise ModelError(
            f"{folder}: backbone.folder: {backbone.folder!r} cannot be that of a detector of the kind {record.kind!r}; "
            "export it again"
        )
    if backbone.folder is not None:
        return str(folder / backbone.folder)
    if Path(backbone.name).exists():
        raise ModelError(
            f"{folder}: its backbone is {backbone.name!r} of the hub, which the folder of that name here would hide; "
            "work from another folder"
        )
    return backbone.name


def _check_backbone(spec: ModelSpec, record: DetectorRecord) -> None:
    """Require the exact checkpoint that the detector was trained on."""
    backbone = record.backbone
    try:
        found = read_config(spec).model_type
    except ModelError as error:
        raise ModelError(f"{error}{made_with(record.packages)}") from None
    if found != backbone.model_type:
        raise ModelError(
            f"model.backbone: {spec.backbone!r} is a {found!r}, and the detector was trained on a "
            f"{backbone.model_type!r}; restore the backbone that it was exported with"
        )
    try:
        there = fingerprint(spec.source, spec.revision)
    except (OSError, ValueError) as error:
        remedy = "export again" if backbone.folder else f"download it: hf download {backbone.name} --revision"
        raise ModelError(f"model.backbone: {spec.backbone!r} cannot be read: {error}; {remedy}") from None
    if there != backbone.fingerprint:
        at = f" at commit {backbone.commit}" if backbone.commit else ""
        raise ModelError(
            f"model.backbone: {spec.backbone!r} is another revision than {backbone.name!r}{at}, which the detector "
            f"was trained on (fingerprint {there[:12]} instead of {backbone.fingerprint[:12]}); restore that one"
        )


def _check_nothing_more(folder: Path, record: DetectorRecord) -> None:
    """Refuse extra files in the folder, because a processor reads every file it finds."""
    known = {*record.files, DETECTOR, WHOLE, INDEX} if record.kind == "merged" else {*record.files, DETECTOR}
    found = {file.name for file in folder.iterdir() if file.suffix in (".json", ".jinja", ".txt") and file.is_file()}
    if more := sorted(name for name in found - known if not name.startswith(".")):
        raise ModelError(f"{folder}: {more[0]} was not exported with the detector, and could change it; remove it")


def _check_files(folder: Path, record: DetectorRecord, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing; export the detector again")
        if hash_of(folder / name) != record.files[name]:
            raise ModelError(
                f"{folder}: {name} is not the file that was exported; scores would differ: restore it, or export again"
            )


def _load_heads(detector: SpanDetector, folder: Path, record: DetectorRecord) -> None:
    tensors = _read_weights(folder / HEADS)
    own = {name: p.data for name, p in detector.named_parameters() if not name.startswith("backbone.")}
    promised = {name: tuple(shape) for name, shape in record.heads.items()}
    if promised != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        _refuse_difference(folder / HEADS, tensors, promised)
    _copy(tensors, own, folder / HEADS)
    _, about = read_header(folder / HEADS)
    if (trained := json.loads(about.get(TAXONOMY, "null"))) != list(record.taxonomy):
        raise ModelError(
            f"{folder}: taxonomy: the heads were trained for {trained}, and detector.json has "
            f"{list(record.taxonomy)}; types would be mixed up: restore it, or export again"
        )


def _load_adapters(detector: SpanDetector, folder: Path) -> None:
    from halspan.models.lora import adapter_tensors  # peft is imported where there are adapters

    config, built = folder / ADAPTER_CONFIG, detector.backbone.peft_config["default"].to_dict()
    if not config.is_file():
        raise ModelError(f"{folder}: {ADAPTER_CONFIG} is missing; export the detector again")
    saved = read_json(config)
    for key in _OF_ADAPTERS:
        here, there = _plain(built[key]), _plain(saved.get(key))
        if here != there:
            raise ModelError(
                f"{folder}: {ADAPTER_CONFIG} has {key} {there!r}, and detector.json makes it {here!r}; export again"
            )
    _copy(_read_weights(folder / ADAPTER), adapter_tensors(detector.backbone), folder / ADAPTER)


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file.parent}: {file.name} cannot be read ({error}); export the detector again") from None


def _copy(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path) -> None:
    """Copy weights into the model; the names must match exactly."""
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        _refuse_difference(file, tensors, shapes)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _refuse_difference(file: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    there = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differing = sorted(name for name in there.keys() | shapes.keys() if there.get(name) != shapes.get(name))
    name = differing[0]
    raise ModelError(
        f"{file.parent}: {file.name}: {len(differing)} weights differ from the detector's, first {name!r}: "
        f"{there.get(name, 'absent')} instead of {shapes.get(name, 'nothing')}; export the detector again"
    )


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)  # value of an enumeration
    return sorted(value) if isinstance(value, list | set | tuple) else value or None
