"""The JSON keys of captions and predictions, required keys first."""

from collections.abc import Mapping
from typing import Any

CAPTION_KEYS = ("id", "image", "generator", "direction", "text", "sentences", "spans", "predicted", "threshold")
SENTENCE_KEYS = ("start", "end", "label", "types", "votes", "p_incorrect", "unscored", "logit")
SPAN_KEYS = ("start", "end", "type")
PREDICTED_SPAN_KEYS = ("start", "end", "type", "score")
VOTES_KEYS = ("correct", "incorrect", "unknown")
_NESTED_KEYS = {
    "sentences": SENTENCE_KEYS,
    "spans": SPAN_KEYS,
    "predicted": PREDICTED_SPAN_KEYS,
    "votes": VOTES_KEYS,
}


def without_extra_keys(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Remove keys that captions, predictions, and their sentences, votes and spans do not have.

    Returns:
        The record with known keys only, and the removed ones, such as "caption" or "sentences.lable". Values of the
        wrong form are left as they are.
    """
    extra: list[str] = []

    def known(value: Any, keys: tuple[str, ...], prefix: str) -> Any:
        if isinstance(value, list | tuple):
            return [known(item, keys, prefix) if isinstance(item, Mapping) else item for item in value]
        if not isinstance(value, Mapping):
            return value
        extra.extend(f"{prefix}{key}" for key in value if key not in keys)
        return {
            key: known(item, _NESTED_KEYS[key], f"{prefix}{key}.") if key in _NESTED_KEYS else item
            for key, item in value.items()
            if key in keys
        }

    return known(record, CAPTION_KEYS, ""), extra
