"""The shapes corpus: generated from its seed on first use, then read like any other corpus."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from halspan.console import track
from halspan.core.captions import Caption
from halspan.data.corpus import Corpus
from halspan.data.readers.jsonl import JsonLines, write_jsonl
from halspan.data.shapes.captioning import caption_scene
from halspan.data.shapes.generators import GENERATORS, Generator
from halspan.data.shapes.render import render
from halspan.data.shapes.scenes import sample_scene

VERSION = 2
"""Version in the folder's name, raised whenever the same seed would make other images or captions."""

_CHUNK = 64


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Shapes:
    """The built-in default corpus: nothing to download, nine types of hallucination, eight generators.

    Attributes:
        path: Folder under which worlds are kept, each in a folder of its own, named by the settings of its content.
        seed: Seed of scenes, captions, errors and votes.
        photos: Number of images that every captioner describes; generators also have images of their own.
    """

    path: Path = Path("data/shapes")
    seed: int = 0
    photos: Annotated[int, Field(ge=1, le=100_000)] = 3000

    @property
    def folder(self) -> Path:
        """Return the folder of the world, whether or not it has been drawn."""
        return self.path / f"v{VERSION}-seed{self.seed}-photos{self.photos}"

    def load(self) -> Corpus:
        """Draw the world unless it exists, and read it."""
        folder = self.folder
        if not folder.is_dir():
            _write_world(folder, _plan(self.photos), self.seed)
        corpus = JsonLines(path=folder / "captions.jsonl").load()
        source = {"reader": "shapes", "path": str(folder), "version": str(VERSION), "seed": str(self.seed)}
        return replace(corpus, name="shapes", source=source)


def image_seed(seed: int, image: str) -> random.Random:
    """Return the random stream of one image, used for its scene, its drawing, then its captions in order."""
    return random.Random(f"world/{seed}/{image}")


def caption_image(seed: int, image: str, generators: tuple[Generator, ...], folder: Path) -> list[Caption]:
    """Draw one image into `folder` and return its captions, one by each generator."""
    rng = image_seed(seed, image)
    scene = sample_scene(rng)
    path = f"images/{image}.png"
    render(scene, rng).save(folder / path, compress_level=1)
    return [
        caption_scene(scene, generator, rng, caption_id=f"{generator.name}/{image}", image=path)
        for generator in generators
    ]


def _plan(photos: int) -> list[tuple[str, tuple[Generator, ...]]]:
    """List every image with the generators that describe it or that made it."""
    captioners = tuple(generator for generator in GENERATORS if generator.direction == "image_to_text")
    shared = [(f"photo-{i:05d}", captioners) for i in range(photos)]
    own = [(f"{generator.name}-{i:05d}", (generator,)) for generator in GENERATORS for i in range(generator.own_images)]
    return shared + own


def _write_world(folder: Path, plan: list[tuple[str, tuple[Generator, ...]]], seed: int) -> None:
    """Write the corpus into a temporary folder, then move it into place."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    (partial / "images").mkdir(parents=True)
    try:
        chunks = [(seed, plan[i : i + _CHUNK], partial) for i in range(0, len(plan), _CHUNK)]
        write_jsonl(partial / "captions.jsonl", _captioned(chunks))
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same world
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _captioned(chunks: list[tuple[int, list[tuple[str, tuple[Generator, ...]]], Path]]) -> Iterator[dict[str, Any]]:
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for records in track(pool.map(_caption_chunk, chunks), "Drawing the shapes world", total=len(chunks)):
            yield from records


def _caption_chunk(chunk: tuple[int, list[tuple[str, tuple[Generator, ...]]], Path]) -> list[dict[str, Any]]:
    seed, images, folder = chunk
    captions = [caption for image, generators in images for caption in caption_image(seed, image, generators, folder)]
    return [caption.to_record() for caption in captions]
