"""Self-preference: the loss of a detector on captions or images made by a model of its own family.

AlignBench (arXiv 2511.20515) finds an AUROC on own captions of 0.82 to 0.90 of the mean over generators.
"""

from collections.abc import Mapping

from halspan.metrics.sentence import macro

GENERATORS: Mapping[str, str] = {
    # AlignBench
    "cogvlm": "cogvlm",
    "gpt4o": "gpt",
    "gpt4o-imagen": "gpt",
    "llama-4": "llama",
    "llava": "llava",
    "qwen": "qwen",
    "sd": "sd",
    "sharegpt": "sharegpt",
    # CHOCOLATE
    "bard": "bard",
    "chartt5": "chartt5",
    "deplot": "deplot",
    "gpt4v": "gpt",
    "matcha": "matcha",
    "unichart": "unichart",
}
"""Families of the generators in known corpora."""

BACKBONES: Mapping[str, str] = {
    "gemma3": "gemma",
    "idefics3": "idefics",
    "internvl": "internvl",
    "llama4": "llama",
    "llava": "llava",
    "llava_onevision": "llava",
    "mllama": "llama",
    "paligemma": "gemma",
    "qwen2_5_vl": "qwen",
    "qwen3_vl": "qwen",
    "smolvlm": "idefics",
}
"""Families of backbones, by transformers' `model_type`."""


def family_of_generator(name: str) -> str | None:
    """Return the family of a generator; None for one that is not in the table.

    >>> family_of_generator("gpt4o"), family_of_generator("another")
    ('gpt', None)
    """
    return GENERATORS.get(name)


def family_of_backbone(model_type: str) -> str | None:
    """Return the family of a transformers `model_type`; None for one that is not in the table."""
    return BACKBONES.get(model_type)


def self_preference(by_generator: Mapping[str, float | None], family: str) -> float | None:
    """Return the mean AUROC on captions of the family's own generators, divided by the mean over all.

    Args:
        by_generator: The detector's AUROC on each generator, None where there is none.
        family: Family of the detector.

    Returns:
        Ratio, below 1 if the detector is worse on its own family's captions; None if no generator of the family has a
        figure.

    >>> self_preference({"qwen": 0.6, "gpt4o": 0.8, "bard": None}, "qwen").__round__(2)
    0.86
    """
    own = macro(figure for name, figure in by_generator.items() if family_of_generator(name) == family)
    everything = macro(by_generator.values())
    return own / everything if own is not None and everything else None
