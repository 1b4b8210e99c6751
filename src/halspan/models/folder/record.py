"""`detector.json`: facts about a detector besides its weights, checked on construction; imports nothing heavy."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from halspan.core.errors import ConfigError, ModelError
from halspan.core.files import write_json
from halspan.models.folder.safe_files import read_json
from halspan.models.heads.registry import HEADS as REGISTRIES
from halspan.models.model_spec import ModelSpec, Switch, Text

DETECTOR = "detector.json"
SCHEMA: Literal[1] = 1

_STRICT = ConfigDict(extra="forbid", validate_default=True)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Kind = Literal["adapter", "heads", "merged"]
Package = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]* [\w.+!-]+$", max_length=200)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BackboneRecord:
    """The backbone of a detector.

    Attributes:
        name: Hub id, or the name of the folder.
        commit: Commit of the hub id; None for a folder.
        folder: Its place in the detector's folder: `backbone`, or `.` with the adapters merged into it; None for one
            that is loaded from the hub.
        model_type: Transformers' type of the model.
        fingerprint: Fingerprint of the checkpoint (see `halspan.models.backbones.shards.fingerprint`).
        random_weights: Whether it was never trained, so that the detector's scores mean nothing.

    Raises:
        pydantic.ValidationError: A key is unknown or missing, or a value is not possible.
    """

    name: Text
    commit: Commit | None
    folder: Literal["backbone", "."] | None
    model_type: Text
    fingerprint: Hash
    random_weights: Switch

    def __post_init__(self) -> None:
        if self.folder is None and (self.commit is None or not _HUB_ID.fullmatch(self.name)):
            raise ValueError(
                f"{self.name!r} at commit {self.commit} is not a backbone of the hub, and there is no folder"
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ScoringRecord:
    """The settings with which a detector scored when its figures were measured.

    Attributes:
        dtype: Precision of the frozen weights and of the forward pass; heads are in float32.
        window: What became of texts that do not fit the window: read in overlapping ones
            (see `halspan.inference.windows`).

    Raises:
        pydantic.ValidationError: A key is unknown or missing, or a value is not possible.
    """

    dtype: Literal["float32", "bfloat16"]
    window: Literal["overlapping"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DetectorRecord:
    """The content of `detector.json`.

    Attributes:
        schema: Version of this file's layout.
        halspan: Version of the package that wrote it.
        name: Name of the detector.
        kind: `adapter` for adapters next to a frozen backbone, `merged` for adapters in it, `heads` for no adapters.
        taxonomy: Types that it distinguishes, in the order of its logits.
        tuned: Temperatures, threshold of sentences and decoding of spans.
        model: Fields of `ModelSpec`, except the backbone and its revision. The prompt is written out, with the image's
            placeholder in it. Heads are named, with their settings.
        backbone: Its backbone.
        image_backend: Backend of the image processor; pixels of other backends differ.
        heads: Shape of each weight of the heads.
        files: SHA-256 of each other file that scores depend on.
        figures: the headline of `metrics.json`.
        origin: what it was trained on.
        packages: name and version of what registers its heads or its backbone, where that is not halspan.
        check: how the folder was compared with the live detector; None where it was not.
        scoring: how it scored when its figures were measured; None where that is not known, as of earlier versions,
            which cut texts at the window and scored in the precision of training.

    Raises:
        pydantic.ValidationError: A key is unknown or missing, or a value is not possible.
    """

    schema: Literal[1]
    halspan: Text
    name: Text
    kind: Kind
    taxonomy: Annotated[list[Text], Field(min_length=1)]
    tuned: dict[str, Any]
    model: dict[str, Any]
    backbone: BackboneRecord
    image_backend: Literal["pil"]
    heads: dict[str, list[int]]
    files: dict[str, Hash]
    figures: dict[str, Any]
    origin: dict[str, Any]
    packages: list[Package] = Field(default_factory=list)
    check: dict[str, Any] | None = None
    scoring: ScoringRecord | None = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.files if Path(name).name != name or name in ("", ".", "..")]:
            raise ValueError(f"files: {unknown[0]!r} is not the name of a file in the folder")
        if (self.spec(".").lora is not None) != (self.kind == "adapter"):
            raise ValueError(f"kind {self.kind!r} does not go with model.lora {self.model.get('lora')}")

    def spec(self, backbone: str) -> ModelSpec:
        """Return the model's spec, with the backbone at its place."""
        return ModelSpec(**(self.model | {"backbone": backbone, "revision": self.backbone.commit}))

    def write(self, folder: Path) -> None:
        """Write `detector.json`."""
        write_json(folder / DETECTOR, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "DetectorRecord":
        """Read `detector.json`.

        Raises:
            ModelError: There is no record, another version wrote it, a value in it is not possible, or a head is not
                registered here; the message names the package to install.
        """
        if not (folder / DETECTOR).is_file():
            raise ModelError(f"{folder}: has no {DETECTOR}, so it is not an exported detector; make one with export.py")
        try:
            record = read_json(folder / DETECTOR)
            version = record.get("schema") if isinstance(record, dict) else None
            if version != SCHEMA:
                raise ValueError(f"{DETECTOR} has schema {version!r}, and this version of halspan reads {SCHEMA}")
            _check_registered(folder, record)
            return TypeAdapter(cls).validate_json(json.dumps(record, allow_nan=False), strict=False)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ModelError(
                f"{folder / DETECTOR}: {place or 'record'}: {first['input']!r:.100} is not possible "
                f"({first['msg']}); export the detector again"
            ) from None
        except (ValueError, TypeError, OSError) as error:
            raise ModelError(f"{folder}: {error}; export the detector again, or install the version that did") from None


def _check_registered(folder: Path, record: Mapping[str, Any]) -> None:
    """Require the heads that the record names.

    Raises:
        ModelError: A head is not registered, or its package cannot be imported.
    """
    model = record.get("model")
    for key, registry in REGISTRIES.items():
        head = model.get(key) if isinstance(model, Mapping) else None
        name = head.get("name") if isinstance(head, Mapping) else None
        if not isinstance(name, str):
            continue  # from a version without a choice of heads, or invalid, which `ModelSpec` reports
        try:
            registry.find(name)
        except ConfigError as error:
            raise ModelError(f"{folder}: {DETECTOR}: {error}{made_with(record.get('packages', []))}") from None


def made_with(packages: Any) -> str:
    """Describe the packages that a detector was made with, to append to an error; empty where none is recorded."""
    try:
        known = TypeAdapter(list[Package]).validate_python(packages)
    except ValidationError:
        return ""
    return f"; the detector was made with: {', '.join(known)}" if known else ""


def model_record(spec: ModelSpec) -> dict[str, Any]:
    """Return the fields of a spec that `detector.json` stores."""
    record = asdict(spec)
    return {name: value for name, value in record.items() if name not in ("backbone", "revision")}
