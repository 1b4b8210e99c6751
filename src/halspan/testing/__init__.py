"""Tiny models, detectors and corpora that tests share: halspan's own, its experiments', and those of extensions."""
