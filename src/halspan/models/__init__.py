"""Vision-language backbones, LoRA, and the heads that turn them into detectors."""
