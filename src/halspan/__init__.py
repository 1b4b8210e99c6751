"""Train vision-language detectors that find hallucinated words in image captions."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halspan.inference.detector import Detector

__all__ = ["Detector", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the detector, and torch with it, on first access."""
    if name == "Detector":
        from halspan.inference.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
