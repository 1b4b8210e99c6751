"""The examples in docstrings print what they show."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import halspan

_ROOT = Path(halspan.__file__).parent
_FILES = sorted(file for file in _ROOT.rglob("*.py") if ">>>" in file.read_text(encoding="utf-8"))


def test_examples_are_found():
    assert len(_FILES) >= 30


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.relative_to(_ROOT).as_posix())
def test_an_example_prints_what_it_shows(file: Path):
    module = import_module(".".join(["halspan", *file.relative_to(_ROOT).with_suffix("").parts]))
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed
