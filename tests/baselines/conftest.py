"""The tiny models are those of the tests of models."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from tiny_models import save_tiny_llava


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a tiny LLaVA."""
    folder = tmp_path_factory.mktemp("llava")
    save_tiny_llava(folder)
    return folder
