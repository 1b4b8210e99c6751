"""The shapes world: procedural scenes with captions whose hallucinations are known."""

from halspan.data.shapes.world import Shapes

__all__ = ["Shapes"]
