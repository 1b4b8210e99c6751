"""Vision-language backbones, LoRA, and the heads that turn them into detectors."""

from halspan.core.process import silence_noise

silence_noise()  # before peft, which imports bitsandbytes
