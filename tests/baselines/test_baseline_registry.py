import subprocess
import sys

import pytest
from pydantic import ValidationError

from halspan.core.errors import ConfigError
from halspan.evaluation.baselines.baseline_specs import DualEncoderSpec, ZeroShotSpec
from halspan.evaluation.baselines.dual_encoder import DualEncoder
from halspan.evaluation.baselines.registry import NAMES, SPECS, check_names, open_model
from halspan.evaluation.baselines.zero_shot import ZeroShot
from halspan.models.backbones.loading import TINY_LLAMA4
from halspan.testing.tiny_dual_encoders import saved
from halspan.testing.tiny_models import spec_maker


def test_an_unknown_name_is_an_error_that_lists_the_options():
    check_names(NAMES)
    with pytest.raises(ConfigError, match=r"'bag_of_words' is none; .*prior, position, bow, clipscore, zero_shot"):
        check_names(["prior", "bag_of_words"])


def test_a_spec_opens_its_model():
    specs = {
        "clipscore": DualEncoderSpec(model=str(saved("clip"))),
        "zero_shot": ZeroShotSpec(model=spec_maker(TINY_LLAMA4, "not used")()),
    }
    kinds = {"clipscore": DualEncoder, "zero_shot": ZeroShot}
    for name in SPECS:
        assert isinstance(specs[name], SPECS[name])
        assert isinstance(open_model(specs[name], device="cpu"), kinds[name])


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (DualEncoderSpec, {"model": ""}),
        (DualEncoderSpec, {"model": "clip", "batch_sentences": 0}),
        (DualEncoderSpec, {"model": "clip", "prompt": "?"}),
        (ZeroShotSpec, {"model": "llava"}),
        (ZeroShotSpec, {"model": spec_maker("llava", "?")(), "question": ""}),
        (ZeroShotSpec, {"model": spec_maker("llava", "?")(), "batch_prompts": 0}),
    ],
)
def test_what_cannot_be_set_is_an_error(make, changes):
    with pytest.raises(ValidationError):
        make(**changes)


def test_names_and_specs_are_there_before_anything_heavy_is():
    heavy = "torch", "transformers", "sklearn"
    code = f"import sys, halspan.evaluation.baselines.registry; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
