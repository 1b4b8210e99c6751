"""Sentence and span figures, as pure functions."""
