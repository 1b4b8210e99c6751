"""Baselines: what sentences give away without the image, and what models say that nobody fine-tuned."""
