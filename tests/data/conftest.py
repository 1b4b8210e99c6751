"""Small corpora on disk: captions, rows in AlignBench's columns, and pictures, each different unless asked for."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"

Record = dict[str, Any]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return real corpora, which are not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real corpora are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def paint() -> Callable[..., Path]:
    """Save a one-colored picture: `paint(path, number)`; different numbers give different pictures."""

    def paint(path: Path, number: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number % 256, number // 256, 7)).save(path)
        return path

    return paint


@pytest.fixture
def write_lines() -> Callable[[Path, Iterable[Record]], Path]:
    """Write JSON Lines."""

    def write_lines(path: Path, records: Iterable[Record]) -> Path:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    return write_lines


@pytest.fixture
def record() -> Callable[..., Record]:
    """Make the JSON object of a caption with a wrong second sentence; keys given replace its own."""

    def record(**changes: Any) -> Record:
        return {
            "id": "a/1",
            "image": "1.png",
            "generator": "a",
            "direction": "image_to_text",
            "text": "A man rides. He has a hat.",
            "sentences": [
                {"start": 0, "end": 12, "label": "correct"},
                {"start": 13, "end": 26, "label": "incorrect", "types": ["Object"]},
            ],
            "spans": [{"start": 22, "end": 25, "type": "Object"}],
        } | changes

    return record


@pytest.fixture
def row() -> Callable[..., Record]:
    """Make a correct sentence in AlignBench's columns; keys given replace its own."""

    def row(**changes: Any) -> Record:
        return {
            "model": "llava",
            "image_source": "COCO",
            "image_name": "1",
            "image_type": "real",
            "sentence_index": 0,
            "caption": "A man rides a horse.",
            "annotation": "correct",
            "error_type": None,
            "error_words": [],
            "agreement_ratio": None,
            "fleiss_Pi": None,
            "n_correct": None,
            "n_incorrect": None,
            "n_unknown": None,
            "image_url": None,
            "image_path_in_repo": "images/1.png",
        } | changes

    return row
