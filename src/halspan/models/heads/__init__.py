"""Heads, which turn the backbone's states into judgments of tokens and sentences."""
