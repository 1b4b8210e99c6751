"""The random tiny Llama-4 with adapters: its spec, and a detector on it."""

from typing import Any

import torch

from halspan.inference.detector import About, Detector
from halspan.inference.tuning import Tuned
from halspan.models.detector import build_detector
from halspan.models.model_spec import LoraSpec, ModelSpec
from halspan.testing.tiny_models import TAXONOMY, spec_maker


def tiny_spec(**changes: Any) -> ModelSpec:
    """Return the spec, different from the default in what is given."""
    lora = LoraSpec(r=2, alpha=4, dropout=0.5, targets=["language"])
    default: dict[str, Any] = {"max_tokens": 512, "pack_tokens": 512, "lora": lora}
    return spec_maker("builtin:llama4-tiny", "What is wrong?")(**(default | changes))


def tiny_detector() -> Detector:
    """Build a detector, always the same."""
    torch.manual_seed(0)
    spec = tiny_spec()
    about = About(name="tiny", figures={}, origin={})
    return Detector(*build_detector(spec, TAXONOMY), spec=spec, taxonomy=TAXONOMY, tuned=Tuned(), about=about)
