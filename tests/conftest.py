"""Set-up shared by all tests: array shapes are checked, and property tests draw the same examples every time."""

import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes are annotated everywhere and checked here only: these modules are not imported yet when pytest reads this file.
_SHAPED = [f"halspan.core.{name}" for name in ("alignment", "targets", "losses", "decoding")] + ["halspan.metrics"]
_SHAPED += [f"halspan.evaluation.baselines.{name}" for name in ("text_only", "dual_encoder", "zero_shot")]
_SHAPED += [f"halspan.models.{name}" for name in ("inputs", "backbones.llama4_images")]
_SHAPED += [f"halspan.models.heads.{name}" for name in ("comparing", "pooling", "linear")]
install_import_hook(_SHAPED, "beartype.beartype")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist uses the cores; read when torch is imported
os.environ.pop("COLUMNS", None)  # the width of lines is a test's own choice, not that of what started it

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a tiny LLaVA."""
    from halspan.testing.tiny_models import save_tiny_llava  # imports what the hook above has to see first

    folder = tmp_path_factory.mktemp("llava")
    save_tiny_llava(folder)
    return folder


@pytest.fixture(autouse=True)
def level_of_the_logger():
    """Give the next test the logger as it was: entry points and the console command set its level."""
    logger = logging.getLogger("halspan")
    level = logger.level
    yield
    logger.setLevel(level)
