"""The settings of halspan's own heads; their modules, and torch with them, are imported when a head is built."""

from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from torch import nn

_STRICT = ConfigDict(extra="forbid", validate_default=True)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ComparingHead:
    """A token head that compares each word with the state that expects it (`halspan.models.heads.comparing`)."""

    name: Literal["comparing"] = "comparing"

    def build(self, hidden: int, n_types: int) -> "nn.Module":
        """Build the head."""
        from halspan.models.heads.comparing import TokenHead

        return TokenHead(hidden, n_types)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PoolingHead:
    """A sentence head with attention pooling and the strongest token's logit (`halspan.models.heads.pooling`)."""

    name: Literal["pooling"] = "pooling"

    def build(self, hidden: int, n_types: int) -> "nn.Module":  # noqa: ARG002 -- the signature of every head
        """Build the head."""
        from halspan.models.heads.pooling import SentenceHead

        return SentenceHead(hidden)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LinearTokens:
    """A token head that is linear in the state (`halspan.models.heads.linear`)."""

    name: Literal["linear"] = "linear"

    def build(self, hidden: int, n_types: int) -> "nn.Module":
        """Build the head."""
        from halspan.models.heads.linear import LinearTokenHead

        return LinearTokenHead(hidden, n_types)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LinearSentences:
    """A sentence head that is linear in the mean of the states (`halspan.models.heads.linear`)."""

    name: Literal["linear"] = "linear"

    def build(self, hidden: int, n_types: int) -> "nn.Module":  # noqa: ARG002 -- the signature of every head
        """Build the head."""
        from halspan.models.heads.linear import LinearSentenceHead

        return LinearSentenceHead(hidden)
