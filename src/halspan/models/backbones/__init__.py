"""Backbones: families of vision-language models, their checkpoints and their processors."""
