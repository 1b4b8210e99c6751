"""A scoring job: captions from a file or stream, a detector, and the output; the whole of it, or one shard."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

import halspan
from halspan.core.errors import DataError, ModelError
from halspan.data.stores.paths import Place
from halspan.data.streams.journal import Settings
from halspan.data.streams.lines import DASH
from halspan.data.streams.parts import part_of
from halspan.data.streams.piped import PipedOutput, pipe_out
from halspan.data.streams.records import ItemReader, Position, Shard, Source
from halspan.data.streams.resumable import Output, ResumableOutput, fingerprint_folder, open_output
from halspan.data.streams.stored import StoredOutput
from halspan.inference.bulk import LEFT_OUT, SCORED, Block, score_blocks
from halspan.inference.detector import Detector
from halspan.inference.hub import download
from halspan.models.devices import find_device
from halspan.scoring.endpoints import absolute, find_writer, open_source


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is scored, by which detector, and where to; it can be sent to other processes and machines.

    Attributes:
        detector: Folder or hub id of an exported detector.
        input_: Captions or predictions, `.jsonl`, `.jsonl.gz` or `.parquet`, here or in an object store; `-` for
            standard input.
        output: Predictions, in the same formats and places; `-` for standard output.
        images: Folder that relative image paths start from; None for the input's folder.
        restarts: Whether what an interrupted run with other settings has left on a machine is removed there;
            otherwise it is refused.
        max_p_incorrect: Highest P(incorrect) in captions to keep; None keeps all.
        batch_tokens: Number of tokens in a forward pass.
        device: Name of the device; None for a GPU if there is one.
        dtype: Precision of the weights; None for the detector's.
        threads: CPU threads of a scorer; results differ in the last bits with their number.
        ignore_extra_keys: Whether keys that captions do not have are left out; otherwise they are refused.
        stop_on_error: Whether to stop at the first record that cannot be used; otherwise it is set aside.
        say: Function that shows a line to the user.
    """

    detector: str
    input_: Place
    output: Place
    images: Place | None = None
    restarts: bool = False
    max_p_incorrect: float | None = None
    batch_tokens: int = 16_384
    device: str | None = None
    dtype: str | None = None
    threads: int = 1
    ignore_extra_keys: bool = False
    stop_on_error: bool = False
    say: Callable[[str], None] = _say

    def run(
        self,
        shard: Shard,
        *,
        resume: bool,
        patience: float = 0.0,
        on_start: Callable[[Source, int], None] | None = None,
        on_scored: Callable[[int], None] | None = None,
        on_block: Callable[[int], None] | None = None,
    ) -> Mapping[str, int]:
        """Score what is left of a shard; return the counts of all of it.

        The output of the only shard is put in its place; the part of one of several stays beside it for a merge.

        Args:
            shard: Part of the input.
            resume: Whether to continue an interrupted run, if there is one.
            patience: Seconds to wait for another process that writes the same part.
            on_start: Function that is called with the input, and the number of its lines that are read already.
            on_scored: Function that is called with the number of captions that were scored together.
            on_block: Function that is called, after a block is on disk, with the number of lines that are read.

        Raises:
            ConfigError: Another process is writing the output, or the interrupted run had other settings.
            DataError: Something cannot be read or written, or a record cannot be used and `stop_on_error` says so.
            ModelError: The detector cannot be loaded, or cannot score anything.
            ResourceError: An object store cannot be used; what is finished stays on this machine.
        """
        torch.set_num_threads(self.threads)
        find_writer(self.output)  # fail now, not at the end, if it needs what is not installed
        source = open_source(self.input_)
        if self.stored is not None and shard.count > 1:
            self.stored.begin(shard, resume=resume)
        with self._open_output(source, shard, resume=resume, patience=patience) as opened:
            if on_start is not None:
                on_start(source, opened.mark.position.number)
            if not opened.mark.is_complete:
                for number in self._score_rest(opened, source, shard, on_scored):
                    if on_block is not None:
                        on_block(number)
            self._end(opened, shard)
        return opened.mark.counts

    def anywhere(self) -> "Job":
        """Return the job with absolute paths, for workers whose current folder may be another."""
        folder = Path(self.detector)
        return replace(
            self,
            detector=str(folder.absolute()) if folder.exists() else self.detector,  # the id of a hub is no path
            input_=absolute(self.input_),
            output=self.output.absolute() if isinstance(self.output, Path) else self.output,
            images=None if self.images is None else absolute(self.images),
        )

    @property
    def stored(self) -> StoredOutput | None:
        """The output in an object store; None where it is a file."""
        return None if isinstance(self.output, Path) else StoredOutput(self.output)

    @property
    def working(self) -> Path:
        """The file of this machine in which the output is made."""
        return self.output if isinstance(self.output, Path) else StoredOutput(self.output).working

    @cached_property
    def loaded(self) -> Detector:
        """The detector, which is loaded when it is first needed, and then kept.

        Raises:
            ModelError: It cannot be loaded.
        """
        return Detector.from_pretrained(self.detector, device=self.device, dtype=self.dtype, revision=self._identity[1])

    @property
    def reader(self) -> ItemReader:
        """The reader of captions from records."""
        root, folder = self.images_folder, self.output.parent
        return ItemReader(root, folder, ignore_extra_keys=self.ignore_extra_keys)

    @cached_property
    def _identity(self) -> tuple[str, str | None]:
        """Return the identity of the detector (a hash of its folder, or its commit on the hub), and the commit."""
        if Path(self.detector).exists():
            return fingerprint_folder(Path(self.detector)), None
        commit = download(self.detector, None)[0].name
        return commit, commit

    @property
    def images_folder(self) -> Place:
        """The folder that relative image paths start from."""
        if self.images is not None:
            return self.images
        return self.input_.parent  # for standard input, this is the current folder

    def _open_output(
        self, source: Source, shard: Shard, *, resume: bool, patience: float
    ) -> AbstractContextManager[Output]:
        if self.output == DASH:
            return self._pipe(source)
        settings = self.settings_of(source, shard)
        part = part_of(self.working, shard)
        return open_output(part, settings=settings, resume=resume, restart=self.restarts, patience=patience)

    def _end(self, opened: Output, shard: Shard) -> None:
        """Put the output in its place, or the part of a shard beside it."""
        stored = self.stored
        if shard.count == 1 or not isinstance(opened, ResumableOutput):
            opened.finish(find_writer(self.output), None if stored is None else stored.put)
            if stored is not None:
                stored.forget()
            return
        opened.complete()
        if stored is not None:
            stored.put_part(opened.paths)

    @contextmanager
    def _pipe(self, source: Source) -> Iterator[Output]:
        """Open standard output for predictions; rejected records are reported."""
        with pipe_out() as stream:
            yield PipedOutput(
                stream, lambda item: self.say(f"rejected: {source.name}:{item['line']}: {item['reason']}")
            )

    def settings_of(self, source: Source, shard: Shard) -> Settings:
        """Return the settings that determine the output's bytes."""
        root = str(absolute(self.images_folder))
        if isinstance(self.output, Path) and isinstance(self.images_folder, Path):
            root = os.path.relpath(root, self.output.parent.resolve())
        return {
            **{f"--input's {name}": value for name, value in source.identity.items()},
            "--detector": self._identity[0],
            "the images' folder, from the output's,": root,
            "--shard": str(shard),
            "--max-p-incorrect": self.max_p_incorrect,
            "--batch-tokens": self.batch_tokens,
            "--device": find_device(self.device).type,
            "--dtype": self.dtype,
            "--threads": self.threads,
            "--extra-keys": "ignore" if self.ignore_extra_keys else "raise",
            "version of halspan": halspan.__version__,
        }

    def _score_rest(
        self,
        opened: Output,
        source: Source,
        shard: Shard,
        on_scored: Callable[[int], None] | None,
        *,
        has_scored: bool = False,
    ) -> Iterator[int]:
        """Score and write the blocks that are left; yield the number of lines that are read after each."""
        counts = Counter(opened.mark.counts)
        can_score = has_scored or counts[SCORED] > 0
        blocks = self._blocks(source, opened.mark.position, shard, has_scored=can_score, on_scored=on_scored)
        try:
            with closing(blocks):  # so that an interrupted run waits for no thread
                for block in blocks:
                    self._take(block, counts, opened, source)
                    yield block.position.number
        except ModelError:
            if can_score or counts[SCORED] or shard.count == 1 or not self._scores_first(source):
                raise
            yield from self._score_rest(opened, source, shard, on_scored, has_scored=True)

    def _blocks(
        self,
        source: Source,
        start: Position,
        shard: Shard,
        *,
        has_scored: bool,
        on_scored: Callable[[int], None] | None = None,
    ) -> Generator[Block, None, None]:
        return score_blocks(
            source.read(start, shard),
            partial(self.loaded.score_blocks, batch_tokens=self.batch_tokens),
            self.reader,
            max_p_incorrect=self.max_p_incorrect,
            has_scored=has_scored,
            on_scored=on_scored,
        )

    def _scores_first(self, source: Source) -> bool:
        """Return whether one process that scores all of the input scores a caption before the detector fails at one."""
        with closing(self._blocks(source, Position(), Shard(), has_scored=False)) as blocks, suppress(ModelError):
            return any(block.counts[SCORED] for block in blocks)
        return False

    def _take(self, block: Block, counts: Counter[str], opened: Output, source: Source) -> None:
        if block.rejected and self.stop_on_error:
            first = block.rejected[0]
            raise DataError(
                f"{source.name}:{first['line']}: {first['reason']} (--on-error skip sets such records aside)"
            )
        if block.left_out and not counts[LEFT_OUT]:
            self.say(f"{source.name}:{block.left_out[0]} (left out: scoring does without it)")
        counts.update(block.counts)
        opened.append(records=block.records, rejected=block.rejected, position=block.position, counts=counts)
