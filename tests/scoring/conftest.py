import pytest
import torch

from halspan.inference.detector import About, Detector
from halspan.inference.tuning import Tuned
from halspan.models.detector import build_detector
from halspan.models.model_spec import LoraSpec, ModelSpec


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    torch.manual_seed(0)
    spec = ModelSpec(
        backbone="builtin:llama4-tiny",
        prompt="What is wrong?",
        context="causal",
        max_tokens=512,
        pack_tokens=512,
        dtype="float32",
        attention="eager",
        lora=LoraSpec(r=2, alpha=4, dropout=0.5, targets=["language"]),
    )
    taxonomy = ("Attribute", "Object")
    built = build_detector(spec, taxonomy)
    about = About(name="tiny", figures={}, origin={})
    folder = tmp_path_factory.mktemp("detector") / "tiny"
    Detector(*built, spec=spec, taxonomy=taxonomy, tuned=Tuned(), about=about).save_pretrained(folder)
    return folder
