"""A small corpus of plain pictures and true and false statements about their colors."""

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

COLORS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200), "white": (240, 240, 240)}
GENERATORS = {"anna": "image_to_text", "ben": "image_to_text", "cleo": "image_to_text", "paint": "text_to_image"}
TYPES = ("Attribute", "Object")


def write_corpus(folder: Path, *, n_images: int = 12, seed: int = 0) -> Path:
    """Write plain pictures, each with a caption by every captioner, and some painted by a text-to-image model."""
    source = random.Random(seed)
    (folder / "images").mkdir(parents=True)
    records = []
    for number in range(n_images):
        color = source.choice(list(COLORS))
        # one pixel differs, so that no two pictures have the same content
        picture = Image.new("RGB", (32, 32), COLORS[color])
        picture.putpixel((0, 0), (number, 0, 0))
        picture.save(folder / "images" / f"{number}.png")
        names = ["paint"] if number % 4 == 3 else ["anna", "ben", "cleo"]
        records += [_record(name, number, color, source) for name in names]
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def _record(generator: str, number: int, color: str, source: random.Random) -> dict[str, Any]:
    """Make a caption of three sentences: the first is not judged, and one of the other two is wrong."""
    text = "Look."
    sentences: list[dict[str, Any]] = [{"start": 0, "end": 5, "label": "unknown"}]
    spans = []
    is_wrong = source.random() < 0.5
    for wrong in (is_wrong, not is_wrong):
        word = source.choice([name for name in COLORS if name != color]) if wrong else color
        start = len(text) + 1
        text += f" The field is {word}."
        sentences.append({"start": start, "end": len(text), "label": "incorrect" if wrong else "correct"})
        if wrong:
            spans.append({"start": len(text) - 1 - len(word), "end": len(text) - 1, "type": TYPES[number % 2]})
    return {
        "id": f"{generator}/{number}",
        "image": f"images/{number}.png",
        "generator": generator,
        "direction": GENERATORS[generator],
        "text": text,
        "sentences": sentences,
        "spans": spans,
    }
