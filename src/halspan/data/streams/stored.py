"""An output in an object store, which is made in a folder of this machine and put there when it is whole.

Stores can neither append nor lock. So the journal, which needs both, stays here; the output, or the part of a shard, is
put into the store when it is finished. Parts lie in a folder beside the output, `scored.jsonl.parts`, each of them in
the files that it has on a disk. The journal comes last and goes first, so that a part with a journal is whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

from filelock import FileLock, Timeout

from halspan.core.errors import ConfigError, DataError
from halspan.core.files import written_to
from halspan.data.stores.access import cache_folder, download, exists, list_names, remove, upload
from halspan.data.stores.copies import digest_of
from halspan.data.stores.paths import StorePath
from halspan.data.streams.parts import Part, part_of, shards_among
from halspan.data.streams.records import Shard
from halspan.data.streams.resumable import Paths


class StoredOutput:
    """An output in an object store.

    Args:
        output: Its address.

    Attributes:
        working: The file of this machine in which it is made.
    """

    def __init__(self, output: StorePath) -> None:
        self._output = output
        self._folder = cache_folder() / "outputs" / digest_of(str(output))
        self._parts = output.parent / f"{output.name}.parts"
        self.working = self._folder / output.name

    def finished(self) -> list[Shard]:
        """Return the shards whose parts are in the store.

        Raises:
            ResourceError: The store cannot be used.
        """
        return shards_among(self._output.name, list_names(self._parts))

    def begin(self, shard: Shard, *, resume: bool) -> None:
        """Prepare this machine for a shard: bring the journal of a finished part, or remove the part.

        Args:
            shard: The shard, of several.
            resume: Whether a finished part is kept.

        Raises:
            ResourceError: The store cannot be used.
        """
        if not resume:
            self.remove_part(shard)
            return
        paths = self._paths(shard)
        if not paths.journal.exists() and exists(there := self._part(paths.journal)):
            download(there, paths.journal)  # it says how the part was made, and what it counted

    def put(self, paths: Paths) -> None:
        """Put the whole output and its rejected records into the store; the output comes last.

        Args:
            paths: Its files on this machine.

        Raises:
            ResourceError: The store cannot be used; the files stay here.
        """
        rejected = self._output.parent / paths.rejected.name
        upload(paths.rejected, rejected) if paths.rejected.exists() else remove(rejected)
        upload(paths.output, self._output)

    def put_part(self, paths: Paths) -> None:
        """Put the finished part of a shard into the store, unless it was brought from there, and remove it here.

        Raises:
            ResourceError: The store cannot be used; the files stay here.
        """
        if paths.partial.exists():
            remove(self._part(paths.journal))  # it may be that of another part
            for path in (paths.partial, paths.rejected_partial):
                upload(path, self._part(path)) if path.stat().st_size else remove(self._part(path))
            upload(paths.journal, self._part(paths.journal))
        paths.discard_unfinished()

    def put_journal(self, part: Part) -> None:
        """Put the journal of a part into the store once more.

        Raises:
            ResourceError: The store cannot be used.
        """
        upload(part.paths.journal, self._part(part.paths.journal))

    def remove_part(self, shard: Shard, *, is_merged: bool = False) -> None:
        """Remove the part of a shard from the store.

        Args:
            shard: The shard.
            is_merged: Whether its journal says that it was merged; then the journal goes last, so that a removal which
                is killed finds the rest.

        Raises:
            ResourceError: The store cannot be used.
        """
        paths = self._paths(shard)
        files = (paths.journal, paths.partial, paths.rejected_partial)
        for path in reversed(files) if is_merged else files:
            remove(self._part(path))

    @contextmanager
    def bring_journals(self) -> Iterator[Path]:
        """Bring the journals of all parts, and yield the output that they stand beside, apart from what is made here.

        Raises:
            ConfigError: Another process of this machine merges the parts.
            ResourceError: The store cannot be used.
        """
        with written_to("XDG_CACHE_HOME", self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        local = self._folder / "merging" / self._output.name
        try:
            with FileLock(self._folder / ".merging.lock", blocking=False):
                rmtree(local.parent, ignore_errors=True)  # of a merge that was killed
                try:
                    for shard in self.finished():
                        journal = Paths(part_of(local, shard)).journal
                        download(self._part(journal), journal)
                    yield local
                finally:
                    rmtree(local.parent, ignore_errors=True)
        except Timeout:
            raise ConfigError(f"--merge: another process merges {self._output}; wait for it") from None

    def bring_parts(self, parts: Sequence[Part]) -> None:
        """Bring the records of parts beside their journals.

        Raises:
            DataError: They are not those that the journal speaks of.
            ResourceError: The store cannot be used.
        """
        for part in parts:
            self._bring(part)

    def _bring(self, part: Part) -> None:
        sizes = {part.paths.partial: part.mark.output_bytes, part.paths.rejected_partial: part.mark.rejected_bytes}
        for path, size in sizes.items():
            if size:
                download(self._part(path), path)
                if (there := path.stat().st_size) != size:
                    raise DataError(
                        f"{self._part(path)}: has {there:,} bytes, and its journal speaks of {size:,}; score shard "
                        f"{part.shard} again with --overwrite"
                    )

    def forget(self) -> None:
        """Remove the finished output of this machine, which the store has."""
        paths = Paths(self.working)
        for path in (paths.output, paths.rejected):
            path.unlink(missing_ok=True)

    def _paths(self, shard: Shard) -> Paths:
        return Paths(part_of(self.working, shard))

    def _part(self, path: Path) -> StorePath:
        """Return the address of a part's file."""
        return self._parts / path.name
