"""The settings of two heads; torch is imported when one is built."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class BottleneckHead:
    """A token head that sees state and word through a few units.

    Attributes:
        width: Number of units.
        dropout: Share of them that is dropped in training, 0 to 1.
    """

    name: Literal["bottleneck"] = "bottleneck"
    width: Annotated[int, Field(ge=1)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def build(self, hidden: int, n_types: int) -> "nn.Module":
        """Build the head."""
        from halspan_example.head_modules import Bottleneck

        return Bottleneck(hidden, n_types, width=self.width, dropout=self.dropout)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class StrongestHead:
    """A sentence head that looks at the most suspicious token alone."""

    name: Literal["strongest"] = "strongest"

    def build(self, hidden: int, n_types: int) -> "nn.Module":
        """Build the head."""
        from halspan_example.head_modules import Strongest

        return Strongest()
