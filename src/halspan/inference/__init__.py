"""Scoring captions with a detector, and judging the scores."""
