"""Baselines: predictors that see only text, and models that were not fine-tuned."""
