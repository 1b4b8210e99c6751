"""What `halspan score` does: it scores one shard or all, merges parts, or shows a plan, and says how it went."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from halspan.console import new_table, open_console
from halspan.core.errors import ConfigError, DataError, ModelError
from halspan.data.stores.paths import Place, StorePath
from halspan.data.streams.lines import DASH
from halspan.scoring.endpoints import check_input, check_output, check_resumable, find_writer

if TYPE_CHECKING:  # imported where they are used, to keep `halspan --help` fast
    from rich.progress import Progress

    from halspan.data.streams.records import Shard, Source
    from halspan.scoring.job import Job
    from halspan.scoring.shards import Launch

_INTERRUPTED = 130  # exit status of shells after Ctrl-C


def show_plan(job: "Job", workers: int) -> None:
    """Show what the whole input takes on 1 and more devices."""
    from halspan.scoring.plan import measure

    check(job, resume=False, overwrite=True)  # as nothing is written, whatever is there may stay
    plan = measure(job)
    console = open_console()
    n = plan.n_sampled
    console.print(
        f"{plan.n_lines:,} records; {n:,} were scored on {plan.device}: {plan.records_per_second:,.1f} a second, "
        f"{plan.n_tokens / n:,.0f} tokens and {plan.n_images / n:.2f} encoded images a record, "
        f"{plan.n_rejected / n:.1%} rejected",
        soft_wrap=True,
    )
    table = new_table("What the whole input takes", "devices", "hours", "images read, MB/s", left=0)
    for devices in sorted({1, 2, 4, 8, 16, 64, workers}):
        hours = plan.hours(devices)
        table.add_row(f"{devices:,}", f"{hours:,.2f}", f"{plan.whole(plan.image_bytes) / hours / 3.6e9:,.1f}")
    console.print(table)
    console.print(f"memory of {plan.device}: {plan.device_bytes / 2**30:.1f} GiB at most")
    console.print(
        f"images: {plan.whole(plan.image_bytes) / 2**30:,.1f} GiB; disk for the output: {plan.disk_bytes / 2**30:,.2f} "
        "GiB, half of it until the parts are merged",
        soft_wrap=True,
    )


def merge(output: Place, *, others: tuple[object, ...]) -> None:
    """Join the parts of all shards."""
    from halspan.data.streams.merging import merge_parts

    if any(other is not None for other in others):
        raise ConfigError("--merge: it takes the output of the shards alone; their parts say everything else")
    check_output(output, DASH)
    _summarize(output, merge_parts(output, find_writer(output)))


def check(job: "Job", *, resume: bool, overwrite: bool) -> None:
    """Refuse impossible combinations before anything is read or loaded."""
    from halspan.data.stores.access import check_folder, exists
    from halspan.models.folder.safe_files import refuse_run

    check_input(job.input_)
    check_output(job.output, job.input_)
    refuse_run(Path(job.detector))
    for place in (job.images, None if isinstance(job.output, Path) else job.output.root):
        if isinstance(place, StorePath):
            check_folder(place)
    if isinstance(job.images, Path) and not job.images.is_dir():
        raise ConfigError(f"--images: {str(job.images)!r} is not a folder; give the one that holds the images")
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite: one continues, the other begins again; give one of them")
    if resume:
        check_resumable(job.input_, job.output)
    _check_device(job.device)
    if exists(job.output) and not resume and not overwrite:
        raise ConfigError(f"--output: {job.output} exists already; --overwrite replaces it, or give another file")


def check_workers(
    *, plan: bool, devices: int | None, launch: str | None, workers: int, address: str | None, shards: int | None
) -> None:
    """Refuse options of several workers where there is one, because they would change nothing."""
    if launch is None and (address is not None or (workers > 1 and not plan)):
        raise ConfigError("--workers and --address: they are those of --launch ray; on this machine give --devices")
    if shards is not None and launch is None and devices is None:
        raise ConfigError("--shards: it is that of --devices and --launch; one shard alone is --shard I/N")


def find_launcher(
    job: "Job", part: "Shard", *, devices: int | None, launch: str | None, address: str | None
) -> "Launch":
    """Return what places shards on workers; what cannot be placed is refused."""
    from halspan.scoring import processes, ray_actors

    if devices is not None and launch is not None:
        raise ConfigError("--devices and --launch: one uses this machine, the other a cluster; give one of them")
    if part.count > 1:
        raise ConfigError(f"--shard: {part} is one shard, and --devices and --launch score all; give one of them")
    if DASH in (job.input_, job.output):
        raise ConfigError("--devices and --launch need files: workers read the input and write their parts; give files")
    if launch is None:
        return processes.launch
    ray_actors.import_ray()  # fail now, not after the input was read, if it is missing
    return partial(ray_actors.launch, address=address)


def score_one(job: "Job", shard: "Shard", *, resume: bool, overwrite: bool) -> None:
    """Score one shard, which may be the only one."""
    from halspan.data.stores.access import exists
    from halspan.data.streams.parts import part_of
    from halspan.data.streams.resumable import Paths

    if shard.count > 1 and DASH in (job.input_, job.output):
        raise ConfigError("--shard: parts are joined from files; give files as --input and --output")
    paths = Paths(part_of(job.working, shard))
    if resume and not paths.journal.exists() and exists(job.output):
        say(f"{job.output} is finished already.")
        return
    is_begun = paths.has_unfinished() or (job.stored is not None and shard in job.stored.finished())
    if is_begun and not resume and not overwrite:
        raise ConfigError(
            f"--output: an interrupted run has left part of {job.output}; --resume continues it, --overwrite begins "
            "again"
        )
    fetch_input(job)
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


def score_all(
    job: "Job",
    workers: int,
    launch: "Launch",
    *,
    n_shards: int | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Score all shards on several workers, and merge them."""
    from halspan.data.stores.access import exists
    from halspan.scoring.shards import prepare, run_all

    if resume and exists(job.output):
        say(f"{job.output} is finished already.")
        return
    shards = prepare(job, workers=workers, n_shards=n_shards, resume=resume, overwrite=overwrite)
    fetch_input(job)
    with _bar() as bar:
        task = bar.add_task(f"Scoring, {workers} workers", total=None)
        counts = run_all(
            job.anywhere(),
            shards,
            workers=workers,
            launch=launch,
            on_start=lambda total: bar.update(task, total=total),
            on_progress=lambda number: bar.update(task, completed=number),
        )
    _summarize(job.output, counts)


def fetch_input(job: "Job") -> None:
    """Copy an input from an object store to this machine, unless it was before; show how far it is."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from halspan.data.stores.copies import fetch

    if isinstance(job.input_, Path):
        return
    console = open_console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"Copying {job.input_}", total=None)
        fetch(job.input_, lambda n_bytes, size: bar.update(task, total=size, completed=n_bytes))


@contextmanager
def answered_ctrl_c(job: "Job", shard: "Shard") -> Iterator[None]:
    """Say, where Ctrl-C ends the block, how much is finished, and the command that continues."""
    try:
        yield
    except KeyboardInterrupt:
        say(_how_to_continue(job, shard))
        raise typer.Exit(_INTERRUPTED) from None


def _how_to_continue(job: "Job", shard: "Shard") -> str:
    """Describe how much is finished, and the command that continues."""
    from halspan.data.streams.parts import find_parts, part_of
    from halspan.data.streams.resumable import Paths

    if DASH in (job.input_, job.output):
        return "interrupted; only what is read from a file and written to one can be continued (--resume)"
    if not isinstance(job.output, Path):
        return f"interrupted; the same command with --resume continues {job.output} on this machine"
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


def _summarize(output: Place, counts: Mapping[str, int], shard: "Shard | None" = None) -> None:
    """Say what was scored, rejected and kept; the part of a shard stays beside the output."""
    from halspan.data.streams.parts import part_of
    from halspan.data.streams.resumable import Paths
    from halspan.inference import bulk

    n = Counter(counts)
    total = n[bulk.SCORED] + n[bulk.REJECTED]
    local = Path(output.name)
    where = "standard error" if output == DASH else Paths(local).rejected.name
    if shard is not None:
        where = Paths(part_of(local, shard)).rejected_partial.name
    why = f" ({where} says why)" if n[bulk.REJECTED] else ""
    say(f"{total:,} records: {n[bulk.SCORED]:,} scored, {n[bulk.REJECTED]:,} rejected{why}")
    say(f"{n[bulk.SENTENCES]:,} sentences, {n[bulk.UNSCORED]:,} of them unscored")
    if n[bulk.LEFT_OUT]:
        say(f"labels, types, votes, spans or keys that cannot be used left out of {n[bulk.LEFT_OUT]:,} records")
    if n[bulk.SCORED] > n[bulk.KEPT]:
        say(
            f"{n[bulk.KEPT]:,} captions kept; dropped: {n[bulk.TOO_LIKELY]:,} with a sentence above the limit, "
            f"{n[bulk.NOT_JUDGED]:,} with a sentence without a score"
        )
    if shard is not None:
        say(f"Shard {shard} is finished; when all are, `halspan score --merge {output}` joins them.")
    elif output != DASH:
        say(f"Written to {output}.")
    if total and not n[bulk.SCORED] and shard is None:
        raise DataError(f"none of the {total:,} records can be scored; {where} says why")


def say(line: str) -> None:
    """Show a line on standard error."""
    open_console(stderr=True).print(line, soft_wrap=True)
