"""Small inputs for `halspan score`, and what it wrote."""

import json

from PIL import Image

COLORS = ("red", "green", "blue", "white")
BAD = "no record\n"


def write_captions(file, n, *, per_image):
    file.parent.mkdir(parents=True, exist_ok=True)
    for color in COLORS:
        Image.new("RGB", (32, 32), color).save(file.parent / f"{color}.png")
    with file.open("w") as lines:
        for number in range(n):
            color = COLORS[number // per_image % 4]
            record = {"id": f"a/{number}", "image": f"{color}.png", "generator": "a", "direction": "image_to_text"}
            lines.write(json.dumps(record | {"text": f"It is {COLORS[number % 4]}. It is {number}."}) + "\n")
    return file


def arguments_of(detector, input_, output, *more):
    options = ["score", "--detector", detector, "--input", input_, "--output", output, "--device", "cpu", *more]
    return [str(option) for option in options]


def damage(file, *numbers):
    """Put what is no record before the lines with these numbers, from 0."""
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join((BAD if number in numbers else "") + line for number, line in enumerate(lines)))


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]
