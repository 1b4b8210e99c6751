"""How the console command prints: plain text that a pipe can take, and tables."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where they are used: `halspan --help` pays for none of them
    from rich.console import Console
    from rich.table import Table

_PIPE_WIDTH = 160  # characters of a table that goes to a file or another program


def open_console(*, stderr: bool = False) -> "Console":
    """Give a console on standard output or error, wide enough for tables where it is no terminal."""
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def new_table(title: str, first: str, *columns: str) -> "Table":
    """Begin a table: the first column to the left, the others to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
