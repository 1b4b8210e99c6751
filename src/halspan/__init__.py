"""Train vision-language detectors that find hallucinated words in image captions."""

__version__ = "0.1.0"
