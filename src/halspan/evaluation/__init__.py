"""Evaluation: tuning, figures, ensembles and baselines."""
