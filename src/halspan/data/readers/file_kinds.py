"""Files that are not JSON Lines: their kinds, and commands that convert them to JSON Lines."""

import codecs
import csv
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halspan.core.errors import DataError
from halspan.data.streams.lines import STDIN, is_compressed, open_lines

HEAD_BYTES = 65_536  # enough to recognize a kind
_SIGNATURES = {
    b"PAR1": "Parquet",
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a ZIP archive, as spreadsheets are",
    b"%PDF": "a PDF document",
}
_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS = (",", "\t", ";")
_COLUMNS = {"id", "image", "text", "caption", "generator", "model", "sentence", "label"}  # a table has two of them
_DUMP = "[print(json.dumps(record)) for record in"
_COMMANDS = {
    "Parquet": f'python -c "import json, sys, pyarrow.parquet as p; {_DUMP} p.read_table(sys.argv[1]).to_pylist()]"',
    "compressed with gzip": "gzip -dc <",
    "UTF-16": "iconv -f UTF-16 -t UTF-8",
    "a JSON array": f'python -c "import json, sys; {_DUMP} json.load(open(sys.argv[1]))]"',
    "one JSON object over several lines": (
        'python -c "import json, sys; print(json.dumps(json.load(open(sys.argv[1]))))"'
    ),
}


def refuse_other_kinds(file: Path) -> None:
    """Refuse a file that is not JSON Lines at all.

    Raises:
        DataError: The file is of another kind, see `check_is_lines`.
        OSError: The file cannot be read.
    """
    with open_lines(file) as stream:
        check_is_lines(file, stream.read(HEAD_BYTES))


def check_is_lines(file: Path, head: bytes) -> None:
    """Refuse a file that is not JSON Lines at all; single bad lines are left to the reader.

    Args:
        file: The file.
        head: Its first `HEAD_BYTES` bytes.

    Raises:
        DataError: It is Parquet, CSV, a JSON array, UTF-16, ...; the message has the command that converts it.
    """
    if (kind := _kind(head)) is None:
        return
    if file == STDIN or is_compressed(file):
        raise DataError(
            f"{file}: is {kind}, not JSON Lines; write it to a plain file, and `halspan data check` of that file has "
            "the command that converts it"
        )
    target = "converted.jsonl" if file.name != "converted.jsonl" else "captions.jsonl"  # never the file itself
    if kind == "a JSON array" and b'"image_path"' in head and b'"labels"' in head:
        raise DataError(
            f"{file}: is CHOCOLATE's list of captions, not JSON Lines; read it with data=chocolate (--format "
            f"chocolate), or convert it: halspan data convert {shlex.quote(str(file))} {target}"
        )
    command = _COMMANDS.get(kind) or (_table_command(head) if kind.startswith("a table") else None)
    remedy = (
        f"convert it: {command} {shlex.quote(str(file))} > {target}"
        if command
        else "write one JSON object a line, with id, image, generator, direction and text"
    )
    raise DataError(f"{file}: is {kind}, not JSON Lines; {remedy}")


def check_is_caption(record: Mapping[str, Any]) -> None:
    """Refuse a row of AlignBench, which is JSON Lines but holds a sentence, not a caption.

    Raises:
        DataError: The row is one of AlignBench.
    """
    if "sentence_index" in record and "annotation" in record:
        raise DataError("is a row in AlignBench's columns, not a caption; read it with data=alignbench")


def _kind(head: bytes) -> str | None:
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if head.startswith(_BYTE_ORDER_MARKS) or b"\0" in head[:4]:
        return "UTF-16"
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"[") and text[1:].lstrip()[:1] == b"{":
        return "a JSON array"
    first, _, rest = text.partition(b"\n")
    if first.strip() == b"{" and rest.lstrip().startswith(b'"'):
        return "one JSON object over several lines"
    return "a table (CSV)" if _delimiter(first) else None


def _delimiter(first: bytes) -> str | None:
    """Return the delimiter of a table's header line; None if the line is not one."""
    line = first.decode("utf-8", "replace")
    for delimiter in _DELIMITERS:
        cells = {cell.strip().casefold() for cell in next(csv.reader([line], delimiter=delimiter), [])}
        if len(cells & _COLUMNS) >= 2:
            return delimiter
    return None


def _table_command(head: bytes) -> str:
    first = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    delimiter = {"\t": ", delimiter=chr(9)", ";": ", delimiter=';'"}.get(_delimiter(first) or "", "")
    source = f"csv.DictReader(open(sys.argv[1], encoding='utf-8-sig', newline=''){delimiter})"
    return f'python -c "import csv, json, sys; {_DUMP} {source}]"'
