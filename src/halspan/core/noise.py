"""Warnings of other libraries about what users can neither change nor use."""

import logging

# by the logger: a kernel that comes whether it is used or not, and a key of a published configuration
_NOISE = {"bitsandbytes.backends.cpu.ops": "gemm_4bit_forward", "transformers.modeling_rope_utils": "high_freq_factor"}


def silence_noise() -> None:
    """Keep these warnings from every handler; called before the libraries are imported, as one warns on import."""
    for name in _NOISE:
        logging.getLogger(name).addFilter(is_worth_showing)


def is_worth_showing(record: logging.LogRecord) -> bool:
    """Return whether a record is not one of these warnings."""
    return _NOISE.get(record.name, "\0") not in str(record.msg)
