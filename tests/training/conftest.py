"""The corpus of the tests that train."""

from pathlib import Path

import pytest

from halspan.testing.small_corpora import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a small corpus with enough images for several steps an epoch; tests change copies of it."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), n_images=24)
