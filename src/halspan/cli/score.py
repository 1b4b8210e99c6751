"""`halspan score`: score any number of captions with a detector."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halspan.cli.corpora import ExtraKeysOption, OnExtraKeys, OnProblem
from halspan.console import open_console
from halspan.core.errors import ConfigError, DataError, ModelError
from halspan.data.streams.lines import DASH
from halspan.scoring.endpoints import check_input, check_output, check_resumable, find_writer

if TYPE_CHECKING:  # imported where they are used, to keep `halspan --help` fast
    from rich.progress import Progress

    from halspan.data.streams.records import Shard, Source
    from halspan.scoring.job import Job
    from halspan.scoring.shards import Launch

_INTERRUPTED = 130  # exit status of shells after Ctrl-C


class Launcher(StrEnum):
    """What places shards on workers."""

    ray = "ray"


class Dtype(StrEnum):
    """Precision of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


_Detector = Annotated[str | None, typer.Option("--detector", "-d", help="Folder or hub id of an exported detector.")]
_Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        "-i",
        help="Captions or predictions, .jsonl, .jsonl.gz or .parquet; - reads JSON Lines from standard input.",
    ),
]
_Output = Annotated[
    Path | None,
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
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Score only part I of N (every N-th block of 256 records); the part stays beside the output for --merge.",
    ),
]
_Merge = Annotated[
    Path | None, typer.Option("--merge", metavar="OUTPUT", help="Join the parts of all shards beside this output.")
]
_Threads = Annotated[
    int, typer.Option("--threads", min=1, help="CPU threads of a scorer; the last bits of scores depend on it.")
]
_Devices = Annotated[
    int | None, typer.Option("--devices", min=1, help="Score on so many GPUs of this machine, or CPU processes.")
]
_Launch = Annotated[
    Launcher | None, typer.Option("--launch", help="Place shards on a Ray cluster (pip install 'halspan[ray]').")
]
_Workers = Annotated[int, typer.Option("--workers", min=1, help="Actors on the Ray cluster, each with a detector.")]
_Address = Annotated[
    str | None,
    typer.Option("--address", help="Address of the Ray cluster. Default: the running one, or one on this machine."),
]
_Shards = Annotated[
    int | None, typer.Option("--shards", min=1, help="Number of shards with --devices or --launch. Default: 4 each.")
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
    detector: _Detector = None,
    input_: _Input = None,
    output: _Output = None,
    images: _Images = None,
    resume: _Resume = False,
    overwrite: _Overwrite = False,
    shard: _Shard = "1/1",
    merge: _Merge = None,
    devices: _Devices = None,
    launch: _Launch = None,
    workers: _Workers = 1,
    address: _Address = None,
    shards: _Shards = None,
    max_p_incorrect: _MaxPIncorrect = None,
    batch_tokens: _BatchTokens = 16_384,
    device: _Device = None,
    dtype: _DtypeOption = None,
    threads: _Threads = 1,
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
    uninterrupted one. So has the merged output of shards, wherever they ran:
    give all of them the same --output, then --merge it. --devices and
    --launch ray do all of that in one command.

    Examples:
      halspan score -d exports/shapes -i captions.jsonl -o scored.jsonl
      halspan score -d exports/shapes -i captions.parquet -o clean.parquet \
        --max-p-incorrect 0.2 --resume
      halspan score -d exports/shapes -i captions.jsonl.gz \
        -o scored.jsonl.gz --images photos --shard 2/4
      halspan score --merge scored.jsonl.gz
      halspan score -d exports/shapes -i captions.jsonl -o scored.jsonl \
        --launch ray --workers 8
      generate | halspan score -d exports/shapes -i - -o - | keep
    """
    if merge is not None:
        _merge(merge, others=(detector, input_, output))
        return
    if detector is None or input_ is None or output is None:
        raise ConfigError("--detector, --input and --output are needed: what scores, what is scored, and where to")
    from halspan.data.streams.records import Shard
    from halspan.scoring.job import Job

    job = Job(
        detector=detector,
        input_=input_,
        output=output,
        images=images,
        max_p_incorrect=max_p_incorrect,
        batch_tokens=batch_tokens,
        device=device,
        dtype=None if dtype is None else dtype.value,
        threads=threads,
        ignore_extra_keys=extra_keys is OnExtraKeys.ignore,
        stop_on_error=on_error is OnProblem.stop,
        say=_say,
    )
    part = Shard.parse(shard)
    _check(job, resume=resume, overwrite=overwrite)
    try:
        if launch is None and devices is None:
            _score_one(job, part, resume=resume, overwrite=overwrite)
        else:
            _check_launch(job, part, devices=devices, launch=launch)
            n_workers = workers if devices is None else devices
            launcher = _find_launcher(launch, address)
            _score_all(job, n_workers, launcher, n_shards=shards, resume=resume, overwrite=overwrite)
    except KeyboardInterrupt:
        _say(_how_to_continue(job, part))
        raise typer.Exit(_INTERRUPTED) from None


def _merge(output: Path, *, others: tuple[object, ...]) -> None:
    """Join the parts of all shards."""
    from halspan.data.streams.parts import merge_parts

    if any(other is not None for other in others):
        raise ConfigError("--merge: it takes the output of the shards alone; their parts say everything else")
    check_output(output, DASH)
    _summarize(output, merge_parts(output, find_writer(output)))


def _check(job: "Job", *, resume: bool, overwrite: bool) -> None:
    """Refuse impossible combinations before anything is read or loaded."""
    from halspan.models.folder.safe_files import refuse_run

    check_input(job.input_)
    check_output(job.output, job.input_)
    refuse_run(Path(job.detector))
    if job.images is not None and not job.images.is_dir():
        raise ConfigError(f"--images: {str(job.images)!r} is not a folder; give the one that holds the images")
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite: one continues, the other begins again; give one of them")
    if resume:
        check_resumable(job.input_, job.output)
    _check_device(job.device)
    if job.output.exists() and not resume and not overwrite:
        raise ConfigError(f"--output: {job.output} exists already; --overwrite replaces it, or give another file")


def _check_launch(job: "Job", part: "Shard", *, devices: int | None, launch: Launcher | None) -> None:
    if devices is not None and launch is not None:
        raise ConfigError("--devices and --launch: one uses this machine, the other a cluster; give one of them")
    if part.count > 1:
        raise ConfigError(f"--shard: {part} is one shard, and --devices and --launch score all; give one of them")
    if DASH in (job.input_, job.output):
        raise ConfigError("--devices and --launch need files: workers read the input and write their parts; give files")


def _find_launcher(launch: Launcher | None, address: str | None) -> "Launch":
    """Return what places shards on workers."""
    from halspan.scoring import processes, ray_actors

    if launch is None:
        return processes.launch
    ray_actors.import_ray()  # fail now, not after the input was read, if it is missing
    return partial(ray_actors.launch, address=address)


def _score_one(job: "Job", shard: "Shard", *, resume: bool, overwrite: bool) -> None:
    """Score one shard, which may be the only one."""
    from halspan.data.streams.parts import part_of
    from halspan.data.streams.resumable import Paths

    if shard.count > 1 and DASH in (job.input_, job.output):
        raise ConfigError("--shard: parts are joined from files; give files as --input and --output")
    paths = Paths(part_of(job.output, shard))
    if resume and job.output.exists() and not paths.journal.exists():
        _say(f"{job.output} is finished already.")
        return
    if paths.has_unfinished() and not resume and not overwrite:
        raise ConfigError(
            f"--output: an interrupted run has left part of {job.output}; --resume continues it, --overwrite begins "
            "again"
        )
    with _bar() as bar:
        task = bar.add_task("Scoring", total=None)

        def start(source: "Source", number: int) -> None:
            total = None if source.total is None else shard.size(source.total)
            bar.update(task, total=total, completed=shard.size(number))

        counts = job.run(
            shard,
            resume=resume,
            on_start=start,
            on_scored=lambda n_captions: bar.advance(task, n_captions),
            on_block=lambda number: bar.update(task, completed=shard.size(number)),
        )
    _summarize(job.output, counts, None if shard.count == 1 else shard)


def _score_all(
    job: "Job",
    workers: int,
    launch: "Launch",
    *,
    n_shards: int | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Score all shards on several workers, and merge them."""
    from halspan.scoring.shards import prepare, run_all

    if resume and job.output.exists():
        _say(f"{job.output} is finished already.")
        return
    shards = prepare(job, workers=workers, n_shards=n_shards, resume=resume, overwrite=overwrite)
    with _bar() as bar:
        task = bar.add_task(f"Scoring, {workers} workers", total=None)
        counts = run_all(
            replace(job, input_=job.input_.absolute(), output=job.output.absolute()),
            shards,
            workers=workers,
            launch=launch,
            on_start=lambda total: bar.update(task, total=total),
            on_progress=lambda number: bar.update(task, completed=number),
        )
    _summarize(job.output, counts)


def _how_to_continue(job: "Job", shard: "Shard") -> str:
    """Describe how much is finished, and the command that continues."""
    from halspan.data.streams.parts import find_parts, part_of
    from halspan.data.streams.resumable import Paths

    if DASH in (job.input_, job.output):
        return "interrupted; only what is read from a file and written to one can be continued (--resume)"
    if not Paths(part_of(job.output, shard)).has_unfinished() and not find_parts(job.output):
        return "interrupted before anything was finished"
    return f"interrupted; the same command with --resume continues {job.output}"


def _check_device(name: str | None) -> None:
    if name is None:
        return
    from halspan.models.devices import find_device

    try:
        find_device(name)
    except ModelError as error:
        raise ConfigError(f"--{error}") from None


def _bar() -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    console = open_console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, speed_estimate_period=60, disable=not console.is_terminal)


def _summarize(output: Path, counts: Mapping[str, int], shard: "Shard | None" = None) -> None:
    """Say what was scored, rejected and kept; the part of a shard stays beside the output."""
    from halspan.data.streams.parts import part_of
    from halspan.data.streams.resumable import Paths
    from halspan.inference import bulk

    n = Counter(counts)
    total = n[bulk.SCORED] + n[bulk.REJECTED]
    where = "standard error" if output == DASH else Paths(output).rejected.name
    if shard is not None:
        where = Paths(part_of(output, shard)).rejected_partial.name
    why = f" ({where} says why)" if n[bulk.REJECTED] else ""
    _say(f"{total:,} records: {n[bulk.SCORED]:,} scored, {n[bulk.REJECTED]:,} rejected{why}")
    _say(f"{n[bulk.SENTENCES]:,} sentences, {n[bulk.UNSCORED]:,} of them unscored")
    if n[bulk.LEFT_OUT]:
        _say(f"labels, types, votes, spans or keys that cannot be used left out of {n[bulk.LEFT_OUT]:,} records")
    if n[bulk.SCORED] > n[bulk.KEPT]:
        _say(
            f"{n[bulk.KEPT]:,} captions kept; dropped: {n[bulk.TOO_LIKELY]:,} with a sentence above the limit, "
            f"{n[bulk.NOT_JUDGED]:,} with a sentence without a score"
        )
    if shard is not None:
        _say(f"Shard {shard} is finished; when all are, `halspan score --merge {output}` joins them.")
    elif output != DASH:
        _say(f"Written to {output}.")
    if total and not n[bulk.SCORED] and shard is None:
        raise DataError(f"none of the {total:,} records can be scored; {where} says why")


def _say(line: str) -> None:
    open_console(stderr=True).print(line, soft_wrap=True)
