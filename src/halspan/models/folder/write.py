"""Writing a detector's weights in formats of other tools: PEFT adapters and transformers checkpoints."""

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from halspan.core.errors import ModelError
from halspan.models.backbones.components import is_adapted, plain_path, state_of
from halspan.models.backbones.families import BACKBONES, FAMILIES
from halspan.models.backbones.loading import TINY_LLAMA4, is_random, load_backbone
from halspan.models.backbones.shards import checkpoint_files, commit_of, fingerprint
from halspan.models.detector import SpanDetector
from halspan.models.folder.record import BackboneRecord, Kind
from halspan.models.heads.registry import HEADS as REGISTRIES
from halspan.models.model_spec import ModelSpec

HEADS = "heads.safetensors"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
TAXONOMY = "taxonomy"  # key in the metadata of the heads' file
LARGEST_SHARD = "5GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A summary of the files that were written.

    Attributes:
        kind: Kind of the folder: with adapters, merged, or neither.
        spec: Spec that loads it from there.
        backbone: Its backbone.
        heads: Shape of each weight of the heads.
        files: SHA-256 of each file, except weights that the backbone's fingerprint covers.
        packages: Versions of the packages other than halspan that it needs.
    """

    kind: Kind
    spec: ModelSpec
    backbone: BackboneRecord
    heads: dict[str, list[int]]
    files: dict[str, str]
    packages: list[str]


def write_weights(
    folder: Path,
    detector: SpanDetector,
    processor: Any,
    spec: ModelSpec,
    *,
    taxonomy: Sequence[str],
    merge: bool,
    origin: BackboneRecord | None = None,
) -> Written:
    """Write adapters or the merged model, heads, processor, and a backbone that is not on the hub.

    Args:
        folder: Empty folder.
        detector: Detector to write; if its adapters are merged, it has none afterwards.
        processor: Processor of its backbone.
        spec: Spec that it was built from.
        taxonomy: Its types.
        merge: Whether to merge the adapters into the backbone's weights; 4-bit weights are dequantized for it.
        origin: Record of the backbone, for a detector that was loaded from a folder.

    Raises:
        ModelError: There are no adapters to merge, or the backbone is no longer at its place.
    """
    config = detector.backbone.config
    merged = origin if origin is not None and origin.folder == "." else None
    if merge and spec.lora is None and merged is None:
        raise ModelError("merge: true, but the detector has no adapters: its heads alone were trained; set it to false")
    merge = merge or merged is not None
    kind: Kind = "merged" if merge else "heads" if spec.lora is None else "adapter"
    processor.save_pretrained(folder)
    heads = head_tensors(detector)
    save_file(heads, folder / HEADS, {TAXONOMY: json.dumps(list(taxonomy))})  # one key: the order of two is random
    commit = _commit(spec) if merged is None else merged.commit
    place: Literal["backbone", "."] | None
    if merge:
        spec = replace(spec, quantize=None)
        _save_model(_merge(detector, spec), folder)
        place = "."
    else:
        place = None if _is_of_hub(spec) else "backbone"
        if kind == "adapter":
            _save_adapters(detector.backbone, folder, base=place or spec.source, commit=commit)
    files = {file.name: hash_of(file) for file in sorted(folder.iterdir()) if not file.name.startswith("model")}
    if place == "backbone":
        copy_backbone(spec, folder / place)
    found = fingerprint(spec.source, commit) if place is None else fingerprint(str(folder / place), None)
    backbone = BackboneRecord(
        name=_name_backbone(spec) if origin is None else origin.name,
        commit=commit,
        folder=place,
        model_type=config.model_type,
        fingerprint=found,
        random_weights=is_random(config),
    )
    _share(folder)
    shapes = {path: list(tensor.shape) for path, tensor in heads.items()}
    spec = replace(spec, lora=None if merge else spec.lora, gradient_checkpointing=False)
    packages = _packages_of(spec, config.model_type)
    return Written(kind=kind, spec=spec, backbone=backbone, heads=shapes, files=files, packages=packages)


def identify_backbone(spec: ModelSpec) -> dict[str, str | None]:
    """Return the commit and the fingerprint of the checkpoint that a spec loads now.

    Raises:
        ModelError: The checkpoint does not exist.
    """
    try:
        if spec.backbone != TINY_LLAMA4:
            commit = commit_of(spec.source, spec.revision)
            return {"commit": commit, "fingerprint": fingerprint(spec.source, commit or spec.revision)}
        with TemporaryDirectory() as temporary:
            copy_backbone(spec, Path(temporary, "backbone"))
            return {"commit": None, "fingerprint": fingerprint(str(Path(temporary, "backbone")), None)}
    except (OSError, ValueError) as error:
        raise ModelError(f"model.backbone: {spec.backbone!r} cannot be read: {error}; restore it") from None


def head_tensors(detector: SpanDetector) -> dict[str, Tensor]:
    """Return the weights of a detector's heads."""
    return {name: p.detach().cpu() for name, p in detector.named_parameters() if not name.startswith("backbone.")}


def hash_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def copy_backbone(spec: ModelSpec, folder: Path) -> None:
    """Copy a backbone's configuration and weights from its folder byte by byte, or build a built-in one.

    Of a backbone that is not read to its last layer, only the layers that are read are written.

    Raises:
        ModelError: A file is missing.
    """
    if spec.backbone == TINY_LLAMA4:
        from halspan.models.backbones.tiny import save_tiny_llama4

        with TemporaryDirectory() as temporary:
            save_tiny_llama4(Path(temporary))
            copy_backbone(replace(spec, backbone=temporary), folder)
        return
    folder.mkdir()
    if spec.read_layer is not None:
        _save_model(load_backbone(replace(spec, quantize=None)).model, folder)
        return
    try:
        for file in checkpoint_files(Path(spec.source)):
            shutil.copyfile(file, folder / file.name)
    except (OSError, ValueError) as error:
        raise ModelError(f"model.backbone: {spec.backbone!r} cannot be copied: {error}; restore it") from None


def _name_backbone(spec: ModelSpec) -> str:
    return spec.source if _is_of_hub(spec) else Path(spec.source).name


def _share(folder: Path) -> None:
    """Set the permissions of the written weights to those of the processor's files: safetensors makes them private."""
    for file in folder.rglob("*.safetensors"):
        shutil.copymode(folder / "processor_config.json", file)


def _packages_of(spec: ModelSpec, model_type: str) -> list[str]:
    needed = [registry.provider(getattr(spec, key).name) for key, registry in REGISTRIES.items()]
    needed.append(None if model_type in FAMILIES else BACKBONES.provider(model_type))
    return sorted({package for package in needed if package is not None})


def _is_of_hub(spec: ModelSpec) -> bool:
    return spec.source != TINY_LLAMA4 and not Path(spec.source).is_dir()


def _commit(spec: ModelSpec) -> str | None:
    commit = commit_of(spec.source, spec.revision) if _is_of_hub(spec) else None
    if commit is None and _is_of_hub(spec):
        raise ModelError(f"model.backbone: the commit of {spec.backbone!r} is not known; give it: model.revision=...")
    return commit


def _save_adapters(model: Any, folder: Path, *, base: str, commit: str | None) -> None:
    from halspan.models.lora import adapter_tensors  # peft is imported where there are adapters

    config = copy.deepcopy(model.peft_config["default"])
    config.inference_mode = True
    config.base_model_name_or_path = base
    config.revision = commit
    config.save_pretrained(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
    save_file(tensors, folder / ADAPTER, {"format": "pt"})


def _save_model(model: Any, folder: Path) -> None:
    model.config.name_or_path = ""  # no path of this machine is saved
    model.save_pretrained(folder, max_shard_size=LARGEST_SHARD)


def _merge(detector: SpanDetector, spec: ModelSpec) -> Any:
    """Return the backbone with its adapters merged and without quantization."""
    if not is_adapted(detector.backbone):
        return detector.backbone
    if any(state_of(detector.backbone, name) is not None for name, _ in detector.backbone.named_parameters()):
        return _dequantize(detector, spec).merge_and_unload()
    detector.merge_adapters()
    detector.backbone = detector.backbone.unload()
    return detector.backbone


@torch.no_grad()
def _dequantize(detector: SpanDetector, spec: ModelSpec) -> Any:
    """Rebuild the backbone with plain weights, dequantized from the stored ones, and the same adapters."""
    from bitsandbytes.functional import dequantize_4bit

    from halspan.models.lora import adapter_tensors, add_lora

    plain = load_backbone(spec)
    if spec.lora is None:
        raise ModelError("merge: the detector has no adapters")
    model = add_lora(plain.model, plain.family, spec.lora)
    weights = {plain_path(name): parameter for name, parameter in _frozen(model)}
    for name, parameter in _frozen(detector.backbone):
        state = state_of(detector.backbone, name)
        if state is not None:
            weights[plain_path(name)].copy_(dequantize_4bit(parameter.data, state))
    adapters = adapter_tensors(model)
    for name, tensor in adapter_tensors(detector.backbone).items():
        adapters[name].copy_(tensor)
    return model


def _frozen(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if ".lora_" not in name]
