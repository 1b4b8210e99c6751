"""Inputs of a detector: encoded captions, batches, and attention masks."""
