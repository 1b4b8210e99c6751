"""`detector.json`: what a detector is beside its weights; checked on construction, nothing heavy imported."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from halspan.core.errors import ModelError
from halspan.core.files import write_json
from halspan.models.artifacts import read_json
from halspan.models.spec import ModelSpec, Switch, Text

DETECTOR = "detector.json"
SCHEMA: Literal[1] = 1

_STRICT = ConfigDict(extra="forbid", validate_default=True)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Kind = Literal["adapter", "heads", "merged"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BackboneRecord:
    """Which backbone a detector stands on.

    Attributes:
        name: hub id; or what the folder was called, where it was one.
        commit: of the hub id; None for a folder.
        folder: where it lies in the detector's folder: `backbone`, or `.` with the adapters merged into it; None for
            one that is loaded from the hub.
        model_type: in transformers' words.
        fingerprint: of the checkpoint that the detector loads (see `halspan.models.shards.fingerprint`).
        random_weights: whether it was never trained, so that what the detector says means nothing.

    Raises:
        pydantic.ValidationError: a key is unknown or missing, or a value is not possible.
    """

    name: Text
    commit: Commit | None
    folder: Literal["backbone", "."] | None
    model_type: Text
    fingerprint: Hash
    random_weights: Switch

    def __post_init__(self) -> None:
        if self.folder is None and (self.commit is None or not _HUB_ID.fullmatch(self.name)):
            raise ValueError(f"{self.name!r} at commit {self.commit} is no backbone of the hub, and there is no folder")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DetectorRecord:
    """What `detector.json` holds.

    Attributes:
        schema: version of this file's layout.
        halspan: version of the package that wrote it.
        name: of the detector.
        kind: `adapter`: adapters beside a frozen backbone; `merged`: adapters in it; `heads`: no adapters.
        taxonomy: the types that it tells apart, in the order of its logits.
        tuned: temperatures, threshold of sentences and decoding of spans.
        model: how it reads a row: the fields of `ModelSpec` but for the backbone and its revision. The prompt is
            written out, with the image's placeholder in it.
        backbone: what it stands on.
        image_backend: of the image processor; pixels of other backends differ.
        heads: shape of each weight of the heads.
        files: SHA-256 of each other file that scores depend on.
        figures: the headline of `metrics.json`.
        origin: what it was trained on.
        check: how the folder was compared with the live detector; None where it was not.

    Raises:
        pydantic.ValidationError: a key is unknown or missing, or a value is not possible.
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
    check: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.files if Path(name).name != name or name in ("", ".", "..")]:
            raise ValueError(f"files: {unknown[0]!r} is no name of a file in the folder")
        if (self.spec(".").lora is not None) != (self.kind == "adapter"):
            raise ValueError(f"kind {self.kind!r} does not go with model.lora {self.model.get('lora')}")

    def spec(self, backbone: str) -> ModelSpec:
        """Give the model's spec with the backbone at its place."""
        return ModelSpec(**(self.model | {"backbone": backbone, "revision": self.backbone.commit}))

    def write(self, folder: Path) -> None:
        """Write `detector.json`."""
        write_json(folder / DETECTOR, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "DetectorRecord":
        """Read `detector.json`.

        Raises:
            ModelError: there is none, it was written by another version, or something in it is not possible.
        """
        if not (folder / DETECTOR).is_file():
            raise ModelError(f"{folder}: has no {DETECTOR}, so it is no exported detector; make one with export.py")
        try:
            record = read_json(folder / DETECTOR)
            version = record.get("schema") if isinstance(record, dict) else None
            if version != SCHEMA:
                raise ValueError(f"{DETECTOR} has schema {version!r}, and this version of halspan reads {SCHEMA}")
            return TypeAdapter(cls).validate_json(json.dumps(record), strict=False)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ModelError(
                f"{folder / DETECTOR}: {place or 'record'}: {first['input']!r:.100} is not possible "
                f"({first['msg']}); export the detector again"
            ) from None
        except (ValueError, TypeError, OSError) as error:
            raise ModelError(f"{folder}: {error}; export the detector again, or install the version that did") from None


def model_record(spec: ModelSpec) -> dict[str, Any]:
    """Give the fields of a spec that `detector.json` keeps."""
    record = asdict(spec)
    return {name: value for name, value in record.items() if name not in ("backbone", "revision")}
