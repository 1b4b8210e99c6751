"""Judging a sample: at most so many captions of each part, the same ones wherever the seed is the same."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from halspan.core.captions import Caption
from halspan.data.split.parts import TRAIN


@plain_dataclass(frozen=True, kw_only=True)
class Sample:
    """The captions that are judged.

    Attributes:
        parts: Captions by the name of their part.
        sampled_from: How many captions the part has, for each part of which not all are judged.
    """

    parts: Mapping[str, Sequence[Caption]]
    sampled_from: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", validate_default=True))
class JudgeSpec:
    """The number of captions that are judged.

    Attributes:
        captions: Most captions of each part that are judged, `val` included; None judges all of them.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value has the wrong type or range.
    """

    captions: Annotated[int, Field(ge=1)] | None

    def choose(self, parts: Mapping[str, Sequence[Caption]], *, seed: int) -> Sample:
        """Choose the captions to judge, by a hash of the seed and their id; `train` stays whole.

        A larger sample holds every caption of a smaller one.

        Args:
            parts: Captions by the name of their part.
            seed: Seed of the choice.
        """
        most = self.captions
        too_many = {name: len(of) for name, of in parts.items() if name != TRAIN and most and len(of) > most}
        chosen = {name: _sample(of, most, seed) if name in too_many else of for name, of in parts.items()}
        return Sample(parts=chosen, sampled_from=too_many)


def _sample(captions: Sequence[Caption], most: int | None, seed: int) -> list[Caption]:
    """Keep the captions with the lowest hashes, in their order."""
    hashes = [hashlib.sha256(f"{seed} {caption.id}".encode()).digest() for caption in captions]
    lowest = set(sorted(hashes)[:most])
    return [caption for caption, hash_ in zip(captions, hashes, strict=True) if hash_ in lowest]
