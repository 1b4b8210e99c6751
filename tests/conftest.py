"""Set-up shared by all tests: array shapes are checked, and property tests draw the same examples every time."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook
from markupsafe import Markup

from halspan.core.process import keep_threads_from_spinning

# Shapes are annotated everywhere and checked here only: these modules are not imported yet when pytest reads this file.
_SHAPED = [f"halspan.core.{name}" for name in ("alignment", "targets", "losses", "decoding")] + ["halspan.metrics"]
_SHAPED += [f"halspan.evaluation.baselines.{name}" for name in ("text_only", "dual_encoder", "zero_shot")]
_SHAPED += [f"halspan.models.{name}" for name in ("inputs", "backbones.llama4_images")]
_SHAPED += [f"halspan.models.heads.{name}" for name in ("comparing", "pooling", "linear")]
install_import_hook(_SHAPED, "beartype.beartype")

# Both are read when torch is imported: pytest-xdist uses the cores, and where a test asks for two threads they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
keep_threads_from_spinning()
os.environ.pop("COLUMNS", None)  # the width of lines is a test's own choice, not that of what started it

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny LLaVA."""
    from halspan.testing.tiny_models import save_tiny_llava  # imports what the hook above has to see first

    folder = tmp_path_factory.mktemp("llava")
    save_tiny_llava(folder)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file of a small corpus; tests that change it take a copy of its folder."""
    from halspan.testing.small_corpora import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"), n_images=40)


@pytest.fixture(scope="session")
def finished_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a run on the small corpus, judged and reported; tests that change it take a copy."""
    from small_runs import run, small_overrides

    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(*small_overrides(corpus), f"run_dir={folder}")
    return folder


@pytest.fixture
def without_plots() -> Iterator[None]:
    """Leave the plots of reports out, which take half of a small run; `finished_run` has them, and tests/reporting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("halspan.reporting.plots.drawing.render", lambda *_, **__: Markup("<svg></svg>"))
        yield


@pytest.fixture(autouse=True)
def level_of_the_logger():
    """Restore the level of the logger after each test: entry points and the console command set it."""
    logger = logging.getLogger("halspan")
    level = logger.level
    yield
    logger.setLevel(level)
