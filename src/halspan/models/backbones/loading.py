"""Loading a vision-language backbone and its processor, whole or not at all."""

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    PretrainedConfig,
)

from halspan.core.checks import show
from halspan.core.errors import HalspanError, ModelError
from halspan.models.backbones.depth import cut_checkpoint, cut_config
from halspan.models.backbones.families import BACKBONES, FAMILIES, Family, family_of, find_decoder
from halspan.models.backbones.flex import implementation_of, use_flex
from halspan.models.backbones.shards import open_checkpoint
from halspan.models.folder.safe_files import check_backbone_folder, find_kernels
from halspan.models.inputs.context import layer_kinds
from halspan.models.inputs.parts import use_parts
from halspan.models.model_spec import SHAPES, ModelSpec
from halspan.models.plan.inventory import check_quantized, measure
from halspan.models.sharding.marks import ReadingFailed

logger = logging.getLogger(__name__)

TINY_LLAMA4 = "builtin:llama4-tiny"
_BUILTIN = "builtin:"
_MOST_LAYERS = 10_000  # also the limit of all other counts in a configuration
_MOST_TIMES = 4  # largest ratio of parameters to those in the checkpoint: weights may be shared or packed

_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A loaded vision-language model.

    Attributes:
        model: The `AutoModelForImageTextToText`, frozen.
        processor: Its processor, on the PIL image backend.
        family: Family of the backbone.
    """

    model: Any
    processor: Any
    family: Family


def load_backbone(spec: ModelSpec, *, processor: str | None = None, in_shards: bool = False) -> Backbone:
    """Load the backbone that a spec names.

    Args:
        spec: Backbone and its precision.
        processor: Folder of its processor; None for the backbone's own place.
        in_shards: Whether all processes of torch's group hold the decoder's layers together, each a shard of them.

    Raises:
        ModelError: There is no checkpoint, it cannot be read, the model and the checkpoint do not have exactly the
            same weights, the tokenizer gives no character offsets, or a layer in shards differs from the whole one.
    """
    if spec.backbone != TINY_LLAMA4:
        return _load(spec, processor, in_shards)
    from halspan.models.backbones.tiny import save_tiny_llama4

    with TemporaryDirectory() as folder:
        save_tiny_llama4(Path(folder))
        return _load(replace(spec, backbone=folder), processor, in_shards)


def check_backbone(spec: ModelSpec) -> tuple[Any, Any]:
    """Check that a backbone can be loaded, without the time and the memory that its weights take.

    Of weights, only the headers of their files are read. Missing files of a hub id are downloaded.

    Returns:
        Its configuration and its processor.

    Raises:
        ModelError: As for `load_backbone`, except for weights that do not fit the model.
    """
    if spec.backbone != TINY_LLAMA4:
        config, processor, _ = _read_parts(spec, None)
        _read(spec, lambda: open_checkpoint(spec.source, spec.revision))
        return config, processor
    from halspan.models.backbones.tiny import save_tiny_llama4

    with TemporaryDirectory() as folder:
        save_tiny_llama4(Path(folder))
        return check_backbone(replace(spec, backbone=folder))


def read_config(spec: ModelSpec) -> Any:
    """Read the transformers configuration of a folder or hub id.

    Raises:
        ModelError: There is no configuration, or it cannot be read.
    """
    if spec.source.startswith(_BUILTIN):
        raise ModelError(f"model.backbone: {spec.backbone!r} is not built in; what is: {SHAPES}, {TINY_LLAMA4}")
    if Path(spec.source).is_dir() and not Path(spec.source, "config.json").is_file():
        raise ModelError(
            f"model.backbone: the folder {spec.backbone!r} has no config.json, so it holds no checkpoint; "
            "give a folder that save_pretrained wrote, or a hub id"
        )
    if Path(spec.source).is_dir():
        _read(spec, lambda: check_backbone_folder(Path(spec.source)))
    settings, _ = _read(spec, lambda: PretrainedConfig.get_config_dict(spec.source, revision=spec.revision))
    _read(spec, lambda: _check_settings(settings))
    model_type = settings.get("model_type")
    if isinstance(model_type, str):
        family_of(model_type)  # imports the package of this backbone, which may have to register its classes first
        if model_type not in CONFIG_MAPPING:
            raise ModelError(
                f"model.backbone: {spec.backbone!r} is a {model_type!r}, which transformers does not know and no "
                "installed package registers; install the package that provides it (entry point group "
                f"{BACKBONES.group}), or a version of transformers that has it"
            )
    config = _read(
        spec, lambda: AutoConfig.from_pretrained(spec.source, revision=spec.revision, trust_remote_code=False)
    )
    return cut_config(config, spec.read_layer)


def _check_settings(config: Any) -> None:
    """Refuse a configuration that asks for code, or is too large to build, before any layer is built."""
    if not isinstance(config, dict):
        raise ValueError(f"config.json holds {show(config)}, not an object")
    for key, name in find_kernels(config):
        raise ValueError(f"config.json has {key} {name!r:.80}, which is code of the hub, and halspan never runs it")
    stack = [config]
    while stack:
        item = stack.pop()
        for key, value in item.items() if isinstance(item, dict) else ():
            is_count = isinstance(value, int) and any(part in key for part in ("layers", "depth", "blocks", "experts"))
            if is_count and value > _MOST_LAYERS:
                raise ValueError(f"config.json has {key} {value:,}, more than the {_MOST_LAYERS:,} that are built")
            stack.append(value)


def _check_size(spec: ModelSpec, config: Any) -> None:
    """Refuse a configuration of a model far larger than its checkpoint, before memory is allocated."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(deepcopy(config), trust_remote_code=False)
    asked = sum(parameter.numel() for parameter in model.parameters())
    tensors = cut_checkpoint(open_checkpoint(spec.source, spec.revision), spec.read_layer)
    there = sum(prod(tensor.shape) for tensor in tensors.values())
    if asked > _MOST_TIMES * there + _MOST_LAYERS:
        raise ValueError(f"config.json asks for {asked:,} parameters, and the checkpoint has {there:,}")


def find_family(spec: ModelSpec, config: Any) -> Family:
    """Return the family of a configuration; it must be one that detectors can use.

    Raises:
        ModelError: It is not a model of images and text, or halspan has no masks for its layers.
    """
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"model.backbone: {spec.backbone!r} is a {config.model_type!r} ({type(config).__name__}), which "
            "transformers' AutoModelForImageTextToText does not know: no model that reads an image and text; "
            f"give one of a vision-language model, such as: {', '.join(FAMILIES)}"
        )
    layer_kinds(config.get_text_config())
    return family_of(config.model_type)


def is_random(config: Any) -> bool:
    """Return whether the weights of a transformers configuration are random, so that scores mean nothing.

    Models that are built for trials have `random_weights` in their configuration.
    """
    return bool(getattr(config, "random_weights", False))


def _read_parts(spec: ModelSpec, processor_from: str | None) -> tuple[Any, Any, Family]:
    """Read everything but the weights: configuration, processor and family."""
    config = read_config(spec)
    family = find_family(spec, config)
    place = (spec.source, spec.revision) if processor_from is None else (processor_from, None)
    processor = _read(spec, lambda: family.load_processor(*place))
    if processor_from is not None and str(processor.image_token) not in spec.prompt:
        raise ModelError(  # otherwise a chat template would be run, which might never end
            f"{processor_from}: model.prompt: {spec.prompt!r:.100} is not written out: it has no place for the image; "
            "export the detector again"
        )
    if not getattr(getattr(processor, "tokenizer", None), "is_fast", False):
        raise ModelError(
            f"model.backbone: {spec.backbone!r} has no fast tokenizer (tokenizer.json), so its tokens have no "
            "character offsets; save one next to the checkpoint"
        )
    _read(spec, lambda: _check_size(spec, config))
    return config, processor, family


def _load(spec: ModelSpec, processor_from: str | None, in_shards: bool) -> Backbone:
    config, processor, family = _read_parts(spec, processor_from)
    model = _load_weights(spec, config, in_shards=in_shards)
    if spec.quantize is not None:
        check_quantized(measure(model, family))
    if spec.attention == "flex":
        use_flex(find_decoder(model, family))
    elif spec.attention == "sdpa":
        use_parts(find_decoder(model, family))
    return Backbone(model=model, processor=processor, family=family)


def _load_weights(spec: ModelSpec, config: Any, *, in_shards: bool) -> Any:
    dtype = getattr(torch, spec.dtype)
    quantization = _quantization(spec, dtype, in_shards=in_shards)
    stored: Any = _read(spec, lambda: cut_checkpoint(open_checkpoint(spec.source, spec.revision), spec.read_layer))
    if in_shards:
        from halspan.models.sharding.reading import divide_reading

        stored = divide_reading(stored, dtype)
    model, report = _read(
        spec,
        lambda: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=stored,
            dtype=dtype,
            attn_implementation=implementation_of(spec.attention),
            quantization_config=quantization,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below
        ),
    )
    for kind in ("missing", "unexpected", "mismatched"):
        if keys := sorted(str(key) for key in report[f"{kind}_keys"]):
            raise ModelError(
                f"model.backbone: {spec.backbone!r} has {len(keys)} {kind} weights for a {type(model).__name__}: "
                f"{', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}; give the checkpoint that was saved from "
                "this model class"
            )
    if in_shards:
        model.hf_quantizer.finish(model)
    model.config.name_or_path = spec.source
    logger.info("backbone: %s from %s", type(model).__name__, spec.backbone)
    return model.requires_grad_(False)


def _quantization(spec: ModelSpec, dtype: torch.dtype, *, in_shards: bool) -> Any:
    if spec.quantize is None and not in_shards:
        return None
    try:
        if in_shards:
            from halspan.models.sharding.reading import Nf4ShardsConfig, ShardsConfig

            return ShardsConfig() if spec.quantize is None else Nf4ShardsConfig(dtype)
        from halspan.models.backbones.quantize import Nf4Config  # imports bitsandbytes
    except ImportError as error:
        raise ModelError(
            f"model.quantize: nf4 needs bitsandbytes, which cannot be imported ({error}); "
            "pip install 'halspan[train]', or set model.quantize=null"
        ) from None
    return Nf4Config(dtype)


def _read(spec: ModelSpec, read: Callable[[], _Loaded]) -> _Loaded:
    """Read a part of the checkpoint, or explain what is wrong with it."""
    try:
        return read()
    except ReadingFailed as failed:
        raise failed.error from failed
    except (HalspanError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # hostile files make transformers raise almost any exception
        reason = " ".join(str(error).split())[:300]
        what, remedy = "the folder", "repair or replace it"
        if not Path(spec.source).is_dir():
            what = "no folder, and as a hub id"
            remedy = (
                "give a folder that exists, or download the hub id once where there is a network (`hf download`, "
                "HF_HUB_OFFLINE unset)"
            )
        raise ModelError(f"model.backbone: {spec.backbone!r}: {what} cannot be read: {reason}; {remedy}") from error
