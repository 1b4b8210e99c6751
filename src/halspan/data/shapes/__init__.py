"""The shapes world: procedural scenes with captions whose hallucinations are known."""
