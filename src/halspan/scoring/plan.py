"""What a scoring job will cost: a sample of its input is scored, and multiplied."""

import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch

from halspan.core.cost import Cost
from halspan.core.errors import ConfigError, DataError
from halspan.data.stores.access import read_stamp
from halspan.data.stores.paths import StorePath
from halspan.data.streams.journal import line_of
from halspan.data.streams.lines import DASH
from halspan.data.streams.records import BLOCK, Position, Shard
from halspan.inference.bulk import REJECTED, SCORED, score_blocks
from halspan.scoring.endpoints import open_source
from halspan.scoring.job import Job

_MOST_BLOCKS = 16  # that are scored
_MOST_ASKED = 64  # images in a store whose sizes are asked for
_MOST_SECONDS = 60.0  # after which no further block is scored
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was measured on a sample, and what it makes for the whole input.

    Attributes:
        n_lines: Lines or rows of the input.
        n_sampled: Records of the sample.
        n_rejected: Records of the sample that cannot be used.
        n_images: Images that were encoded for the sample; captions of one image in a block share its encoding.
        n_tokens: Tokens that were read for the sample, of text and of image placeholders, without padding.
        records_per_second: Speed of one device, behind the first block where there are several.
        output_bytes: Bytes of its predictions, as lines.
        image_bytes: Bytes of the files of its images.
        device: Kind of the device.
        device_bytes: Largest memory of the device that was in use; on a CPU, that of the process.
    """

    n_lines: int
    n_sampled: int
    n_rejected: int
    n_images: int
    n_tokens: int
    records_per_second: float
    output_bytes: int
    image_bytes: int
    device: str
    device_bytes: int

    def whole(self, of_sample: float) -> float:
        """Return what a number of the sample makes for the whole input."""
        return of_sample * self.n_lines / self.n_sampled

    def hours(self, devices: int) -> float:
        """Return the hours that so many devices take, each as fast as the one measured."""
        return self.n_lines / self.records_per_second / devices / _SECONDS_PER_HOUR

    @property
    def disk_bytes(self) -> float:
        """Return the largest space that the output needs: its parts, and the merged file before they are removed."""
        return 2 * self.whole(self.output_bytes)


def measure(job: Job) -> Plan:
    """Score blocks from all of the input, at most sixteen and about a minute, and write nothing.

    Args:
        job: The job; its input is a file.

    Raises:
        ConfigError: The input is a stream, or has no records.
        DataError: The input cannot be read.
        ModelError: The detector cannot be loaded, or cannot score anything.
    """
    if job.input_ == DASH:
        raise ConfigError("--plan: standard input can be read only once; write it to a file and give that")
    torch.set_num_threads(job.threads)
    source = open_source(job.input_)
    n_lines = source.total or 0
    every = max(1, -(-n_lines // (BLOCK * _MOST_BLOCKS)))
    device = job.loaded.device.type
    costs: list[Cost] = []
    score = partial(job.loaded.score_blocks, batch_tokens=job.batch_tokens, on_pass=costs.append)
    counts: Counter[str] = Counter()
    output_bytes, images = 0, set[str]()
    times, done = [time.perf_counter()], [0]
    with closing(score_blocks(source.read(Position(), Shard(1, every)), score, job.reader)) as blocks:
        for block in blocks:
            counts.update(block.counts)
            output_bytes += sum(len(line_of(record)) for record in block.records)
            images |= {record["image"] for record in block.records}
            times.append(time.perf_counter())
            done.append(counts[SCORED] + counts[REJECTED])
            if times[-1] - times[0] > _MOST_SECONDS:
                break
    if not (n_sampled := done[-1]):
        raise ConfigError(f"--plan: {job.input_} has no records; give another file")
    cost, first = sum(costs, Cost()), int(len(times) > 2)  # the first block also warms up
    return Plan(
        n_lines=n_lines,
        n_sampled=n_sampled,
        n_rejected=counts[REJECTED],
        n_images=cost.image_encodings,
        n_tokens=cost.tokens,
        records_per_second=(n_sampled - done[first]) / (times[-1] - times[first]),
        output_bytes=output_bytes,
        image_bytes=_image_bytes(job, sorted(images)),
        device=device,
        device_bytes=torch.cuda.max_memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss,
    )


def _image_bytes(job: Job, images: list[str]) -> int:
    """Return the bytes of images by the names that captions have for them; of many in a store, a few are asked for."""
    few = images[:: 1 + len(images) // _MOST_ASKED] if isinstance(job.images_folder, StorePath) else images
    return sum(_size(job, image) for image in few) * len(images) // max(1, len(few))


def _size(job: Job, image: str) -> int:
    """Return the bytes of an image's file; 0 for one inside its record."""
    with suppress(OSError, DataError):
        if isinstance(job.images_folder, StorePath):
            return read_stamp(job.images_folder.below(image)).size
        folder = job.output.parent if isinstance(job.output, Path) else Path()
        return (folder / image).stat().st_size
    return 0
