"""Inputs and outputs of `halspan score`: the files and streams it can use, and functions that open them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from halspan.core.errors import ConfigError
from halspan.data.stores.paths import Place
from halspan.data.streams.lines import COMPRESSED, DASH, compress, without_suffixes

if TYPE_CHECKING:  # imported where they are used, to keep `halspan --help` fast
    from halspan.data.streams.records import Source

_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_PARQUET = ".parquet"


def check_input(path: Place) -> None:
    """Refuse an input whose name is not that of JSON Lines or Parquet; name its kind where that is clear.

    Raises:
        ConfigError: The name is of neither format.
        DataError: The file is CSV or similar; the message has the command that converts it.
    """
    if path == DASH:
        return
    if isinstance(path, Path) and not _is_named(path) and path.is_file():
        from halspan.data.readers.file_kinds import refuse_other_kinds

        refuse_other_kinds(path)
    _check_name("--input", path)


def check_output(path: Place, input_: Place) -> None:
    """Refuse an output whose name is not that of JSON Lines or Parquet, or that is the input.

    Raises:
        ConfigError: The name is of neither format, or the output is the input.
    """
    if path == DASH:
        return
    _check_name("--output", path)
    if input_ != DASH and absolute(input_) == absolute(path):
        raise ConfigError(f"--output: {path} is the input; give another file")
    rejected = path.parent / f"{without_suffixes(Path(path.name)).name}.rejected.jsonl"
    if input_ != DASH and absolute(input_) == absolute(rejected):
        raise ConfigError(f"--output: rejected records of {path} would replace the input, {input_}; give another file")


def check_resumable(input_: Place, output: Place) -> None:
    """Refuse to resume from or into a stream, which cannot be read or written again.

    Raises:
        ConfigError: The input or the output is a stream.
    """
    if input_ == DASH:
        raise ConfigError("--resume: standard input cannot be read again; write it to a file and give that")
    if output == DASH:
        raise ConfigError("--resume: standard output cannot be continued; give a file")


def open_source(path: Place) -> "Source":
    """Open an input; one in an object store is copied to this machine, unless it was before.

    Raises:
        ConfigError: It is Parquet, and pyarrow is not installed, or the package for its store is not.
        DataError: The input cannot be read.
        ResourceError: The store cannot be used.
    """
    from halspan.data.stores.copies import fetch
    from halspan.data.streams.records import JsonLinesFile, JsonLinesStream

    if path == DASH:
        return JsonLinesStream(sys.stdin.buffer)
    source: Source
    if path.suffix != _PARQUET:
        source = JsonLinesFile(fetch(path))
    else:
        from halspan.data.streams.parquet import ParquetFile

        source = ParquetFile(fetch(path))
    source.name = str(path)
    return source


def absolute(place: Place) -> Place:
    """Return where something is, whatever the current folder."""
    return place.resolve() if isinstance(place, Path) else place


def find_writer(path: Place) -> Callable[[Path, Path], None] | None:
    """Return the converter from finished lines to the output's format; None where the lines are the output.

    Raises:
        ConfigError: It is Parquet, and pyarrow is not installed.
    """
    if path.suffix == COMPRESSED:
        return compress
    if path.suffix != _PARQUET:
        return None
    from halspan.data.streams.parquet import import_pyarrow, write_parquet

    import_pyarrow()  # fail now, not at the end, if it is missing
    return write_parquet


def _is_named(path: Place) -> bool:
    return path.name.endswith((*_LINES, _PARQUET))


def _check_name(option: str, path: Place) -> None:
    if not _is_named(path):
        raise ConfigError(
            f"{option}: {str(path)!r} is neither {', '.join(_LINES)} nor {_PARQUET}; name it by its format, or give "
            "- for a stream of JSON Lines"
        )
