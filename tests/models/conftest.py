"""Tiny backbones, saved once."""

from pathlib import Path

import pytest
from tiny_models import MakeSpec, save_tiny_llava, spec_maker

from halspan.models.backbone import TINY_LLAMA4


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a tiny LLaVA."""
    folder = tmp_path_factory.mktemp("llava")
    save_tiny_llava(folder)
    return folder


@pytest.fixture(params=["llava", "llama4"])
def make_spec(request: pytest.FixtureRequest, tiny_llava: Path) -> MakeSpec:
    """Give a maker of specs for each family."""
    is_llava = request.param == "llava"
    return spec_maker(str(tiny_llava), "<image>") if is_llava else spec_maker(TINY_LLAMA4, "What is wrong?")


@pytest.fixture
def make_llava_spec(tiny_llava: Path) -> MakeSpec:
    """Give a maker of specs where one family is enough."""
    return spec_maker(str(tiny_llava), "<image>")


@pytest.fixture
def make_llama4_spec() -> MakeSpec:
    """Give a maker of specs of the family with routed experts."""
    return spec_maker(TINY_LLAMA4, "What is wrong?")
