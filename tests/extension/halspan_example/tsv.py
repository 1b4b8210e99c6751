"""A reader of tables: one caption of one sentence a line, between tabs, with a line of headings."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from halspan.core.captions import Caption
from halspan.core.errors import DataError
from halspan.data.corpus import Corpus, OnProblem, Share, Skips, find_corpus_file, find_image_root, keep_with_images
from halspan.data.download.addresses import downloaded_file, is_address
from halspan.data.readers.protocol import Sample

_COLUMNS = ("id", "image", "generator", "text", "label")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Tsv:
    """A table with the columns id, image, generator, text and label (correct, incorrect or unknown).

    Attributes:
        path: The file, or a folder with one `*.tsv`.
        images: Folder that image paths start from; the file's own if None.
        on_error: "raise" stops at the first malformed line, "skip" leaves them out and counts them.
        missing_image: The same for captions whose image is missing or unreadable.
        min_images: Least share of usable images, 0 to 1; below it the corpus is refused.
    """

    file_names: ClassVar[tuple[str, ...]] = ("*.tsv",)

    path: Path
    images: Path | None = None
    on_error: OnProblem = "raise"
    missing_image: OnProblem = "raise"
    min_images: Share = 0.9

    @classmethod
    def recognizes(cls, sample: Sample) -> bool:
        """Return whether the file begins with the headings."""
        return sample.head.startswith("\t".join(_COLUMNS).encode())

    @classmethod
    def find_links(cls, file: Path, images: Path, skips: Skips) -> dict[str, bool]:
        """Return each address in the column `image`; none is at hand but what was downloaded."""
        return {row["image"]: False for _, row in _read_rows(file) if is_address(row["image"] or "")}

    def load(self, *, check_images: bool = True) -> Corpus:
        """Read the corpus.

        Args:
            check_images: Whether captions without a usable image are refused or left out; False looks at no image.

        Raises:
            DataError: The corpus cannot be found or used.
        """
        file = find_corpus_file(self.path, self.file_names)
        root = find_image_root(self.images, file.parent)
        skips = Skips(self.on_error)
        lines: dict[str, int] = {}
        captions = keep_with_images(
            _read_captions(file, skips, lines),
            root,
            missing_image=self.missing_image,
            min_images=self.min_images,
            skips=skips,
            check_images=check_images,
        )
        skips.finish()
        return Corpus(
            name=file.stem,
            captions=captions,
            image_root=root,
            skipped=dict(skips.counts),
            source={"reader": "tsv", "path": str(file)},
            lines=lines,
            notes={"problems": skips.problems},
        )


def _read_captions(file: Path, skips: Skips, lines: dict[str, int]) -> Iterator[Caption]:
    for number, row in _read_rows(file):
        try:
            caption = Caption.from_record(_record(row))
        except DataError as error:
            skips.add("malformed records", f"{file}:{number}: {error}")
            continue
        lines[caption.id] = number
        is_link = is_address(caption.image)
        yield replace(caption, image=str(downloaded_file(caption.image))) if is_link else caption


def _read_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8", newline="") as stream:
        yield from enumerate(csv.DictReader(stream, delimiter="\t"), start=2)


def _record(row: dict[str, Any]) -> dict[str, Any]:
    text = row["text"] or ""
    return {
        "id": row["id"],
        "image": row["image"],
        "generator": row["generator"],
        "direction": "image_to_text",
        "text": text,
        "sentences": [{"start": 0, "end": len(text), "label": row["label"]}],
    }
