"""All shards of a job: what an interrupted run has left of them, their scoring by workers, and their merge.

A worker keeps its detector loaded and scores one shard after another. What is finished is in the journals of the
shards, so that a worker which dies loses a block of records at most.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from halspan.core.errors import ConfigError
from halspan.data.streams.merging import merge_parts
from halspan.data.streams.parts import find_parts, lines_read, part_of
from halspan.data.streams.records import Shard
from halspan.data.streams.resumable import Paths, check_settings, locked_journal
from halspan.scoring.endpoints import find_writer, open_source
from halspan.scoring.job import Job

PATIENCE = 60.0  # seconds that a worker waits for the lock of one that has died
POLL = 0.5  # seconds between two looks at the journals
MOST_DEATHS = 10  # of workers with the same shard; more often, the shard is what kills them
_SHARDS_PER_WORKER = 4  # so that fast workers take more, and little is left to the last

Launch = Callable[[Job, Sequence[Shard], int], Iterator[set[Shard]]]  # yields what was finished meanwhile


def prepare(job: Job, *, workers: int, n_shards: int | None, resume: bool, overwrite: bool) -> list[Shard]:
    """Return all shards of a job, some of which an interrupted run may have scored.

    Args:
        job: The job; its output is a file.
        workers: Number of workers.
        n_shards: Number of shards; None for that of the interrupted run, or for four a worker.
        resume: Whether to continue an interrupted run.
        overwrite: Whether to remove what it has left.

    Raises:
        ConfigError: An interrupted run is to be neither continued nor removed, or had another number of shards.
    """
    begun = {part.shard for part in find_parts(job.working)}.union(_stored(job))
    if overwrite:
        for shard in begun:
            _discard(Paths(part_of(job.working, shard)))
            if job.stored is not None:
                job.stored.remove_part(shard)
        begun = set()
    alone = Paths(job.working)
    if alone.has_unfinished():
        if not overwrite:
            raise ConfigError(
                f"--output: one process was interrupted at {job.output}; continue it by --resume, without --devices "
                "and --launch, or --overwrite begins again"
            )
        _discard(alone)
    had = sorted({shard.count for shard in begun})
    if begun and not resume:
        raise ConfigError(
            f"--output: an interrupted run has left parts of {job.output}; --resume continues it, --overwrite begins "
            "again"
        )
    n_shards = n_shards or (had[0] if had else _SHARDS_PER_WORKER * workers)
    if had not in ([], [n_shards]):
        raise ConfigError(
            f"--shards: the interrupted run had {' and '.join(map(str, had))} shards, not {n_shards}; give the same "
            "number, or --overwrite to begin again"
        )
    return [Shard(index, n_shards) for index in range(1, n_shards + 1)]


def run_all(
    job: Job,
    shards: Sequence[Shard],
    *,
    workers: int,
    launch: Launch,
    on_start: Callable[[int | None], None],
    on_progress: Callable[[int], None],
) -> Mapping[str, int]:
    """Score all shards and merge them; return the counts of all of them.

    Args:
        job: The job; its output is a file.
        shards: All of its shards.
        workers: Number of workers.
        launch: `halspan.scoring.processes.launch` or `halspan.scoring.ray_actors.launch`.
        on_start: Function that is called with the number of lines of the input.
        on_progress: Function that is called now and then with the number of lines that are read in all shards.

    Raises:
        ConfigError: What an interrupted run has left was made with other settings.
        HalspanError: That of the first worker that failed; the other shards are whole or can be continued.
    """
    convert = find_writer(job.output)
    source = open_source(job.input_)
    total = source.total
    on_start(total)
    parts = find_parts(job.working) if job.stored is None else []
    for part in parts:  # those that are complete are not looked at again
        now = dict(job.settings_of(source, part.shard))
        if job.device is None:  # each worker finds its own, and this process may have no GPU
            now["--device"] = part.settings.get("--device")
        check_settings(part.settings, now)
    done = {part.shard for part in parts if part.mark.is_complete}
    done |= set(_stored(job))
    left = [shard for shard in shards if shard not in done]
    for finished in launch(job, left, min(workers, len(left))) if left else ():
        done |= finished
        on_progress(
            sum(shard.size((total or 0) if shard in done else lines_read(job.working, shard)) for shard in shards)
        )
    return merge_parts(job.output, convert)


def _discard(paths: Paths) -> None:
    with locked_journal(paths):  # no other process writes there
        paths.discard_unfinished()


def _stored(job: Job) -> list[Shard]:
    """Return the shards whose parts are in the object store of the output."""
    return [] if job.stored is None else job.stored.finished()
