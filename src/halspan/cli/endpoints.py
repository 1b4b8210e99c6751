"""What `halspan score` reads from and writes to: which files and streams there are, and how they are opened."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from halspan.cli.corpora import DASH
from halspan.core.errors import ConfigError

if TYPE_CHECKING:  # imported where they are used: `halspan --help` pays for none of them
    from halspan.data.stream import Source

_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_PARQUET = ".parquet"


def check_input(path: Path) -> None:
    """Refuse an input that is named as neither JSON Lines nor Parquet; say what it is where that can be told.

    Raises:
        ConfigError: it is.
        DataError: it is, and is a CSV file or the like; the message has the command that converts it.
    """
    if path == DASH:
        return
    if not _is_named(path) and path.is_file():
        from halspan.data.file_kinds import refuse_other_kinds

        refuse_other_kinds(path)
    _check_name("--input", path)


def check_output(path: Path, input_: Path) -> None:
    """Refuse an output that is named as neither JSON Lines nor Parquet, or is the input.

    Raises:
        ConfigError: it is.
    """
    if path == DASH:
        return
    _check_name("--output", path)
    if input_ != DASH and input_.resolve() == path.resolve():
        raise ConfigError(f"--output: {path} is the input; give another file")


def check_resumable(input_: Path, output: Path) -> None:
    """Refuse to continue what is not there a second time.

    Raises:
        ConfigError: the input or the output is a stream.
    """
    if input_ == DASH:
        raise ConfigError("--resume: standard input cannot be read again; write it to a file and give that")
    if output == DASH:
        raise ConfigError("--resume: standard output cannot be continued; give a file")


def open_source(path: Path) -> "Source":
    """Open an input.

    Raises:
        ConfigError: it is Parquet, and pyarrow is not installed.
        DataError: it cannot be read.
    """
    from halspan.data.stream import JsonLinesFile, JsonLinesStream

    if path == DASH:
        return JsonLinesStream(sys.stdin.buffer)
    if path.suffix != _PARQUET:
        return JsonLinesFile(path)
    from halspan.data.parquet import ParquetFile

    return ParquetFile(path)


def find_writer(path: Path) -> Callable[[Path, Path], None] | None:
    """Find what makes an output of finished lines; None where they are the output.

    Raises:
        ConfigError: it is Parquet, and pyarrow is not installed.
    """
    from halspan.data.lines import compress, is_compressed

    if is_compressed(path):
        return compress
    if path.suffix != _PARQUET:
        return None
    from halspan.data.parquet import import_pyarrow, write_parquet

    import_pyarrow()  # that it is missing is better known now than at the end
    return write_parquet


def _is_named(path: Path) -> bool:
    return path.name.endswith((*_LINES, _PARQUET))


def _check_name(option: str, path: Path) -> None:
    if not _is_named(path):
        raise ConfigError(
            f"{option}: {str(path)!r} is neither {', '.join(_LINES)} nor {_PARQUET}; name it by its format, or give "
            "- for a stream of JSON Lines"
        )
