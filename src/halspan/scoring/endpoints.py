"""Inputs and outputs of `halspan score`: the files and streams it can use, and functions that open them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from halspan.core.errors import ConfigError
from halspan.data.streams.lines import DASH, compress, is_compressed

if TYPE_CHECKING:  # imported where they are used, to keep `halspan --help` fast
    from halspan.data.streams.records import Source

_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_PARQUET = ".parquet"


def check_input(path: Path) -> None:
    """Refuse an input whose name is not that of JSON Lines or Parquet; name its kind where that is clear.

    Raises:
        ConfigError: The name is of neither format.
        DataError: The file is CSV or similar; the message has the command that converts it.
    """
    if path == DASH:
        return
    if not _is_named(path) and path.is_file():
        from halspan.data.readers.file_kinds import refuse_other_kinds

        refuse_other_kinds(path)
    _check_name("--input", path)


def check_output(path: Path, input_: Path) -> None:
    """Refuse an output whose name is not that of JSON Lines or Parquet, or that is the input.

    Raises:
        ConfigError: The name is of neither format, or the output is the input.
    """
    if path == DASH:
        return
    _check_name("--output", path)
    if input_ != DASH and input_.resolve() == path.resolve():
        raise ConfigError(f"--output: {path} is the input; give another file")


def check_resumable(input_: Path, output: Path) -> None:
    """Refuse to resume from or into a stream, which cannot be read or written again.

    Raises:
        ConfigError: The input or the output is a stream.
    """
    if input_ == DASH:
        raise ConfigError("--resume: standard input cannot be read again; write it to a file and give that")
    if output == DASH:
        raise ConfigError("--resume: standard output cannot be continued; give a file")


def open_source(path: Path) -> "Source":
    """Open an input.

    Raises:
        ConfigError: It is Parquet, and pyarrow is not installed.
        DataError: The input cannot be read.
    """
    from halspan.data.streams.records import JsonLinesFile, JsonLinesStream

    if path == DASH:
        return JsonLinesStream(sys.stdin.buffer)
    if path.suffix != _PARQUET:
        return JsonLinesFile(path)
    from halspan.data.streams.parquet import ParquetFile

    return ParquetFile(path)


def find_writer(path: Path) -> Callable[[Path, Path], None] | None:
    """Return the converter from finished lines to the output's format; None where the lines are the output.

    Raises:
        ConfigError: It is Parquet, and pyarrow is not installed.
    """
    if is_compressed(path):
        return compress
    if path.suffix != _PARQUET:
        return None
    from halspan.data.streams.parquet import import_pyarrow, write_parquet

    import_pyarrow()  # fail now, not at the end, if it is missing
    return write_parquet


def _is_named(path: Path) -> bool:
    return path.name.endswith((*_LINES, _PARQUET))


def _check_name(option: str, path: Path) -> None:
    if not _is_named(path):
        raise ConfigError(
            f"{option}: {str(path)!r} is neither {', '.join(_LINES)} nor {_PARQUET}; name it by its format, or give "
            "- for a stream of JSON Lines"
        )
