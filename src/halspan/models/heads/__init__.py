"""Heads, which turn the backbone's states into judgements of tokens and sentences."""
