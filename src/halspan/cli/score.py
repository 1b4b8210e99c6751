"""`halspan score`: score any number of captions with a detector."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halspan.cli.corpora import DASH, ExtraKeysOption, OnExtraKeys, OnProblem, pipe_out
from halspan.cli.endpoints import check_input, check_output, check_resumable, find_writer, open_source
from halspan.console import open_console
from halspan.core.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:  # imported where they are used, to keep `halspan --help` fast
    from rich.progress import Progress

    from halspan.data.streams.records import Shard, Source
    from halspan.data.streams.resumable import Output, Paths
    from halspan.inference.bulk import Block, ScoreBlocks

_INTERRUPTED = 130  # exit status of shells after Ctrl-C


class Dtype(StrEnum):
    """Precision of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


_Detector = Annotated[str, typer.Option("--detector", "-d", help="Folder or hub id of an exported detector.")]
_Input = Annotated[
    Path,
    typer.Option(
        "--input",
        "-i",
        help="Captions or predictions, .jsonl, .jsonl.gz or .parquet; - reads JSON Lines from standard input.",
    ),
]
_Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="Predictions to write, .jsonl, .jsonl.gz or .parquet; - writes to standard output."
    ),
]
_Images = Annotated[
    Path | None,
    typer.Option("--images", help="Folder that relative image paths start from. Default: the input's folder."),
]
_Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, if there is one.")]
_Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a finished output, or start an unfinished one again.")
]
_Shard = Annotated[
    str, typer.Option("--shard", metavar="I/N", help="Score only part I of N: every N-th block of 256 records.")
]
_MaxPIncorrect = Annotated[
    float | None,
    typer.Option(
        "--max-p-incorrect", min=0, max=1, help="Keep only captions whose sentences all have at most this P(incorrect)."
    ),
]
_BatchTokens = Annotated[int, typer.Option("--batch-tokens", min=1, help="Number of tokens in a forward pass.")]
_Device = Annotated[
    str | None, typer.Option("--device", help="Device, such as cpu or cuda:1. Default: a GPU if there is one.")
]
_DtypeOption = Annotated[
    Dtype | None, typer.Option("--dtype", help="Precision of the weights. Default: the detector's.")
]
_OnError = Annotated[
    OnProblem, typer.Option("--on-error", help="Set aside and count unusable records and images, or stop at the first.")
]


def score(
    detector: _Detector,
    input_: _Input,
    output: _Output,
    images: _Images = None,
    resume: _Resume = False,
    overwrite: _Overwrite = False,
    shard: _Shard = "1/1",
    max_p_incorrect: _MaxPIncorrect = None,
    batch_tokens: _BatchTokens = 16_384,
    device: _Device = None,
    dtype: _DtypeOption = None,
    extra_keys: ExtraKeysOption = OnExtraKeys.stop,
    on_error: _OnError = OnProblem.skip,
) -> None:
    r"""Score captions: P(incorrect) of each sentence, and the hallucinated words.

    A record needs `text` and an image: `image` (a path, absolute or from the
    input's folder) or, inside the record, `image_base64`; in Parquet also
    `image_bytes`, or `image` as a struct of bytes and path. Without `id`,
    `generator` and `direction` a caption gets its line's number, "unknown"
    and "image_to_text". Labels, types, votes and spans are carried along;
    those that cannot be used are left out and counted.

    Image paths are rewritten to start from the output's folder; an image
    inside a record becomes sha256:HASH. Unusable records and images are
    counted, and go to scored.rejected.jsonl beside scored.jsonl, with line
    and reason. With standard output, paths start from the current folder,
    and unusable records are reported on standard error.

    Captions of one image among 256 records share its encoding. With --resume,
    a killed run continues, and its output has the same bytes as that of an
    uninterrupted one. The outputs of all shards together hold every record
    once, each in the order of the input.

    Examples:
      halspan score -d exports/shapes -i captions.jsonl -o scored.jsonl
      halspan score -d exports/shapes -i captions.parquet -o clean.parquet \
        --max-p-incorrect 0.2 --resume
      halspan score -d exports/shapes -i captions.jsonl.gz \
        -o part2.jsonl.gz --images photos --shard 2/4
      generate | halspan score -d exports/shapes -i - -o - | keep
    """
    from halspan.data.streams.records import Shard
    from halspan.data.streams.resumable import Paths

    job = _Job(
        detector=detector,
        input_=input_,
        paths=Paths(output),
        images=images,
        shard=Shard.parse(shard),
        max_p_incorrect=max_p_incorrect,
        batch_tokens=batch_tokens,
        device=device,
        dtype=dtype,
        extra_keys=extra_keys,
        on_error=on_error,
    )
    job.check(resume=resume, overwrite=overwrite)
    if resume and output.exists() and not job.paths.journal.exists():
        _say(f"{output} is finished already.")
        return
    try:
        counts = job.run(resume=resume)
    except KeyboardInterrupt:
        _say(job.how_to_continue())
        raise typer.Exit(_INTERRUPTED) from None
    _summarize(job.paths, counts, max_p_incorrect)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One scoring job: the input, the detector, and the output."""

    detector: str
    input_: Path
    paths: "Paths"
    images: Path | None
    shard: "Shard"
    max_p_incorrect: float | None
    batch_tokens: int
    device: str | None
    dtype: Dtype | None
    extra_keys: OnExtraKeys
    on_error: OnProblem

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse impossible combinations before anything is read or loaded."""
        output = self.paths.output
        check_input(self.input_)
        check_output(output, self.input_)
        _check_detector(Path(self.detector))
        if self.images is not None and not self.images.is_dir():
            raise ConfigError(f"--images: {str(self.images)!r} is not a folder; give the one that holds the images")
        if resume and overwrite:
            raise ConfigError("--resume and --overwrite: one continues, the other begins again; give one of them")
        if resume:
            check_resumable(self.input_, output)
        _check_device(self.device)
        if resume or overwrite:
            return
        if self.paths.has_unfinished():
            raise ConfigError(
                f"--output: an interrupted run has left part of {output}; --resume continues it, --overwrite begins "
                "again"
            )
        if output.exists():
            raise ConfigError(f"--output: {output} exists already; --overwrite replaces it, or give another file")

    def run(self, *, resume: bool) -> Mapping[str, int]:
        """Score the rest of the input and put the output in its place; return the counts of all of it."""
        convert = find_writer(self.paths.output)
        source = open_source(self.input_)
        with self._open_output(source, resume=resume) as opened:
            if not opened.mark.is_complete:
                self._score_rest(opened, source)
            opened.finish(convert)
        return opened.mark.counts

    def _open_output(self, source: "Source", *, resume: bool) -> "AbstractContextManager[Output]":
        from halspan.data.streams.resumable import open_output

        if self.paths.output == DASH:
            return _pipe_predictions(source)
        return open_output(self.paths.output, settings=self._settings(source), resume=resume)

    def how_to_continue(self) -> str:
        """Describe how much is finished, and the command that continues."""
        if DASH in (self.input_, self.paths.output):
            return "interrupted; only what is read from a file and written to one can be continued (--resume)"
        if not self.paths.has_unfinished():
            return "interrupted before anything was finished"
        return f"interrupted; the same command with --resume continues {self.paths.output}"

    @cached_property
    def _identity(self) -> tuple[str, str | None]:
        """Return the identity of the detector (a hash of its folder, or its commit on the hub), and the commit."""
        from halspan.data.streams.resumable import fingerprint_folder
        from halspan.inference.hub import download

        if Path(self.detector).exists():
            return fingerprint_folder(Path(self.detector)), None
        commit = download(self.detector, None)[0].name
        return commit, commit

    @property
    def _image_root(self) -> Path:
        if self.images is not None:
            return self.images
        return self.input_.parent  # for standard input, this is the current folder

    def _settings(self, source: "Source") -> dict[str, str | int | float | None]:
        """Return the settings that determine the output's bytes."""
        root = os.path.relpath(self._image_root.resolve(), self.paths.output.parent.resolve())
        return {
            **{f"--input's {name}": value for name, value in source.identity.items()},
            "--detector": self._identity[0],
            "the images' folder, from the output's,": root,
            "--shard": str(self.shard),
            "--max-p-incorrect": self.max_p_incorrect,
            "--batch-tokens": self.batch_tokens,
            "--device": self.device,
            "--dtype": None if self.dtype is None else self.dtype.value,
            "--extra-keys": self.extra_keys.value,
        }

    def _score_rest(self, opened: "Output", source: "Source") -> None:
        from halspan.data.streams.records import ItemReader
        from halspan.inference.bulk import SCORED, score_blocks

        score = self._load()
        counts = Counter(opened.mark.counts)
        with _progress(self.shard, source, opened) as (advance, settle):
            blocks = score_blocks(
                source.read(opened.mark.position, self.shard),
                score,
                ItemReader(
                    self._image_root,
                    self.paths.output.parent,
                    ignore_extra_keys=self.extra_keys is OnExtraKeys.ignore,
                ),
                max_p_incorrect=self.max_p_incorrect,
                has_scored=counts[SCORED] > 0,
                on_scored=advance,
            )
            with closing(blocks):  # so that an interrupted run waits for no thread
                for block in blocks:
                    self._take(block, counts, opened, source)
                    settle(block.position.number)

    def _take(self, block: "Block", counts: Counter[str], opened: "Output", source: "Source") -> None:
        from halspan.inference.bulk import LEFT_OUT

        if block.rejected and self.on_error is OnProblem.stop:
            first = block.rejected[0]
            raise DataError(
                f"{source.name}:{first['line']}: {first['reason']} (--on-error skip sets such records aside)"
            )
        if block.left_out and not counts[LEFT_OUT]:
            _say(f"{source.name}:{block.left_out[0]} (left out: scoring does without it)")
        counts.update(block.counts)
        opened.append(records=block.records, rejected=block.rejected, position=block.position, counts=counts)

    def _load(self) -> "ScoreBlocks":
        from functools import partial

        from halspan.inference.detector import Detector

        _, revision = self._identity
        detector = Detector.from_pretrained(self.detector, device=self.device, dtype=self.dtype, revision=revision)
        return partial(detector.score_blocks, batch_tokens=self.batch_tokens)


def _check_detector(folder: Path) -> None:
    """Refuse the folder of a run before the input is read, which may take long."""
    from halspan.models.folder.safe_files import refuse_run

    refuse_run(folder)


def _check_device(name: str | None) -> None:
    if name is None:
        return
    from halspan.models.devices import find_device

    try:
        find_device(name)
    except ModelError as error:
        raise ConfigError(f"--{error}") from None


@contextmanager
def _pipe_predictions(source: "Source") -> "Iterator[Output]":
    """Open standard output for predictions; rejected records are reported on standard error."""
    from halspan.data.streams.piped import PipedOutput

    with pipe_out() as stream:
        yield PipedOutput(stream, lambda item: _say(f"rejected: {source.name}:{item['line']}: {item['reason']}"))


@contextmanager
def _progress(
    shard: "Shard", source: "Source", opened: "Output"
) -> "Iterator[tuple[Callable[[int], None], Callable[[int], None]]]":
    """Yield, with a progress bar, a function that counts scored captions and a setter of the input's position."""
    total = None if source.total is None else shard.size(source.total)
    with _bar() as progress:
        task = progress.add_task("Scoring", total=total, completed=shard.size(opened.mark.position.number))
        yield (
            lambda n_captions: progress.advance(task, n_captions),
            lambda number: progress.update(task, completed=shard.size(number)),
        )


def _bar() -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    console = open_console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, speed_estimate_period=60, disable=not console.is_terminal)


def _summarize(paths: "Paths", counts: Mapping[str, int], max_p_incorrect: float | None) -> None:
    from halspan.inference import bulk

    n = Counter(counts)
    total = n[bulk.SCORED] + n[bulk.REJECTED]
    where = "standard error" if paths.output == DASH else paths.rejected.name
    why = f" ({where} says why)" if n[bulk.REJECTED] else ""
    _say(f"{total:,} records: {n[bulk.SCORED]:,} scored, {n[bulk.REJECTED]:,} rejected{why}")
    _say(f"{n[bulk.SENTENCES]:,} sentences, {n[bulk.UNSCORED]:,} of them unscored")
    if n[bulk.LEFT_OUT]:
        _say(f"labels, types, votes, spans or keys that cannot be used left out of {n[bulk.LEFT_OUT]:,} records")
    if max_p_incorrect is not None:
        _say(
            f"{n[bulk.KEPT]:,} captions kept; dropped: {n[bulk.TOO_LIKELY]:,} with a sentence above "
            f"{max_p_incorrect}, {n[bulk.NOT_JUDGED]:,} with a sentence without a score"
        )
    if paths.output != DASH:
        _say(f"Written to {paths.output}.")
    if total and not n[bulk.SCORED]:
        raise DataError(f"none of the {total:,} records can be scored; {where} says why")


def _say(line: str) -> None:
    open_console(stderr=True).print(line, soft_wrap=True)
