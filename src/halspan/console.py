"""Console output of commands: tables, progress bars, log lines and errors, safe from control characters."""

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from halspan.core.process import is_first_process, is_worth_showing, silence_noise, speaker
from halspan.core.text.printable import printable

_PIPE_WIDTH = 160  # characters in a line to a file or another program
_ENDLESS = 100_000  # characters; wider than any table
_GAP = "   "
_WORD = re.compile(r"^ *\S+|\S+")  # the first word includes its indent
_STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "collapse_padding": True}

T = TypeVar("T")


class _PlainConsole(Console):
    """A console that prints text as it is: no markup, no emoji codes, no control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def open_console(*, stderr: bool = False) -> Console:
    """Open standard output or error; lines are long where it is not a terminal and COLUMNS is not set."""
    console = _PlainConsole(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def answer_ctrl_c() -> None:
    """Make Ctrl-C interrupt this process, even where it was started with that signal ignored (`nohup ... &`)."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def report_error(error: object) -> None:
    """Print an error on standard error, after `error:`; no line in it can look like another message."""
    sys.stderr.write(f"{speaker()}error: {_indent(printable(str(error), keep=chr(10)))}\n")


def show_logs(level: int, *, plain: bool) -> None:
    """Show on standard error the log records of halspan, and the warnings of other libraries.

    Args:
        level: Lowest level of halspan's own records that are shown.
        plain: Whether each record is one line, for pipes, instead of columns.
    """
    handler: logging.Handler
    if plain:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    else:
        handler = RichHandler(console=open_console(stderr=True), show_path=False, show_time=False)
        handler.setFormatter(_Formatter("%(message)s"))
    handler.addFilter(_is_worth_showing)
    handler.name = "halspan"
    silence_noise()  # libraries have handlers of their own, too
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.name == handler.name]:  # from an earlier command in this process
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("halspan").setLevel(level)


@contextmanager
def quiet_unless(speaks: bool) -> Iterator[None]:
    """Hide halspan's warnings inside a block, unless this is the process that speaks for others that do the same."""
    logger = logging.getLogger("halspan")
    level = logger.level
    if not speaks:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def silence_other_bars() -> None:
    """Keep transformers from drawing bars about weights; the bars of long downloads stay."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    had_bars = not are_progress_bars_disabled()
    disable_progress_bar()  # the hub's too
    if had_bars:
        enable_progress_bars()


@contextmanager
def without_other_bars() -> Iterator[None]:
    """Silence these bars inside a block; afterwards the settings of the calling program are restored."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils.logging import enable_progress_bar, is_progress_bar_enabled

    had_bars, had_others = is_progress_bar_enabled(), not are_progress_bars_disabled()
    silence_other_bars()
    try:
        yield
    finally:
        if had_bars:
            enable_progress_bar()  # the hub's too
            if not had_others:
                disable_progress_bars()


def track(items: Iterable[T], description: str, *, total: int) -> Iterator[T]:
    """Yield items one by one, with a progress bar on standard error while they last, if that is a terminal.

    Of processes that do the same together, only the first one shows a bar.
    """
    from rich.progress import track as track_with_rich

    console = open_console(stderr=True)
    silent = not (console.is_terminal and is_first_process())
    yield from track_with_rich(items, description, total, console=console, transient=True, disable=silent)


def new_table(title: str, *columns: str, left: int = 1) -> "WholeTable":
    """Return an empty table.

    Args:
        title: Above it.
        columns: Headings.
        left: Number of text columns, from the first; the others are figures, aligned to the right.
    """
    return WholeTable(title, columns, left)


@dataclass
class WholeTable:
    """A table that shows every cell in full, however narrow the console is.

    Where the columns do not fit side by side, the words of their headings go below each other; where that is not enough
    either, each row becomes a block: its first cell, and below it the others with their headings.

    Attributes:
        title: Above it.
        columns: Headings.
        left: Number of text columns, from the first.
    """

    title: str
    columns: Sequence[str]
    left: int = 1
    _rows: list[tuple[tuple[str, ...], str]] = field(default_factory=list)  # cells and style
    _ends: set[int] = field(default_factory=set)  # rows that end a section

    def __post_init__(self) -> None:
        """Convert title and headings to plain text, like cells."""
        self.title, self.columns = printable(self.title), tuple(map(printable, self.columns))

    def add_row(self, *cells: str, style: str = "") -> None:
        """Add a row; cells are plain text."""
        self._rows.append((tuple(printable(cell) for cell in cells), style))

    def add_section(self) -> None:
        """Add a separator after the rows so far."""
        self._ends.add(len(self._rows) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the first layout that fits."""
        for columns in (self.columns, [re.sub(" (?!%)", "\n", name) for name in self.columns]):
            table = self._lay_out(columns)
            if Measurement.get(console, options.update(width=_ENDLESS), table).minimum <= options.max_width:
                yield table
                return
        yield from self._stack(options.max_width)

    def _lay_out(self, columns: Sequence[str]) -> Table:
        table = Table(title=Text(self.title), title_justify="left", **_STYLE)
        for place, name in enumerate(columns):
            texts = name.split("\n") + [cells[place] for cells, _ in self._rows if place < len(cells)]
            if place == 0:  # names may wrap at a space; other cells stay whole
                texts = [part for text in texts for part in _WORD.findall(text)]
            table.add_column(
                Text(name),
                justify="left" if place < self.left else "right",
                overflow="fold",
                min_width=max((Text(text).cell_len for text in texts), default=0),
                no_wrap=place > 0,
            )
        for place, (cells, style) in enumerate(self._rows):
            table.add_row(*map(Text, cells), style=style, end_section=place in self._ends)
        return table

    def _stack(self, width: int) -> Iterator[Text]:
        yield Text(self.title, style="italic")
        for place, ((first, *others), style) in enumerate(self._rows):
            yield Text(first, style=style or "bold", overflow="fold")
            named = zip(self.columns[1:], others, strict=False)
            for line in _fill([f"{name} {cell}".strip() for name, cell in named if cell], width - 2):
                yield Text(f"  {line}", overflow="fold")
            if place in self._ends:
                yield Text()


def _fill(parts: Iterable[str], width: int) -> Iterator[str]:
    """Put as many parts into each line as fit."""
    line = ""
    for part in parts:
        longer = f"{line}{_GAP}{part}" if line else part
        if line and Text(longer).cell_len > width:
            yield line
            longer = part
        line = longer
    if line:
        yield line


class _Formatter(logging.Formatter):
    """Log formatter that says which process speaks, and keeps a message from steering the terminal.

    No message looks like another record.
    """

    def format(self, record: logging.LogRecord) -> str:
        return speaker() + _indent(printable(super().format(record), keep="\n"))


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")


def _is_worth_showing(record: logging.LogRecord) -> bool:
    """Return whether a record is not one of Lightning's advertisements or a warning that no user can act on."""
    if not is_worth_showing(record):
        return False
    return record.name.startswith("halspan") or record.levelno >= logging.WARNING
