"""Set-up shared by all tests: array shapes are checked, and property tests draw the same examples every time."""

import logging
import os

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes are annotated everywhere and checked here only: these modules are not imported yet when pytest reads this file.
_SHAPED = [f"halspan.core.{name}" for name in ("alignment", "targets", "losses", "decoding")] + ["halspan.metrics"]
_SHAPED += [f"halspan.baselines.{name}" for name in ("blind", "dual_encoder", "zero_shot")]
_SHAPED += [f"halspan.models.{name}" for name in ("batch", "context", "encoding", "heads", "llama4_images")]
install_import_hook(_SHAPED, "beartype.beartype")

os.environ.pop("COLUMNS", None)  # the width of lines is a test's own choice, not that of what started it

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def level_of_the_logger():
    """Give the next test the logger as it was: entry points and the console command set its level."""
    logger = logging.getLogger("halspan")
    level = logger.level
    yield
    logger.setLevel(level)
