"""Makers of specs of tiny backbones."""

from pathlib import Path

import pytest

from halspan.models.backbones.loading import TINY_LLAMA4
from halspan.testing.tiny_models import MakeSpec, spec_maker


@pytest.fixture(params=["llava", "llama4"])
def make_spec(request: pytest.FixtureRequest, tiny_llava: Path) -> MakeSpec:
    """Return a maker of specs for each family."""
    is_llava = request.param == "llava"
    return spec_maker(str(tiny_llava), "<image>") if is_llava else spec_maker(TINY_LLAMA4, "What is wrong?")


@pytest.fixture
def make_llava_spec(tiny_llava: Path) -> MakeSpec:
    """Return a maker of specs where one family is enough."""
    return spec_maker(str(tiny_llava), "<image>")


@pytest.fixture
def make_llama4_spec() -> MakeSpec:
    """Return a maker of specs of the family with routed experts."""
    return spec_maker(TINY_LLAMA4, "What is wrong?")
