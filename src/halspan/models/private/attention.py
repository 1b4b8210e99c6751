"""Private names of transformers' attention, as they are in 5.17 to 5.23; they import little of transformers."""

from typing import Any


def attention_of(config: Any) -> str | None:
    """Return the implementation of attention that a configuration names."""
    return getattr(config, "_attn_implementation", None)


def set_attention(config: Any, implementation: str) -> None:
    """Let the model of a configuration attend by an implementation that was registered."""
    config._attn_implementation = implementation


def can_replace_attention(decoder: Any) -> bool:
    """Return whether a decoder takes its attention from transformers' table of implementations."""
    return any(getattr(decoder, name, False) for name in ("_supports_flex_attn", "_supports_attention_backend"))
