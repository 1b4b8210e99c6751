"""The `halspan` console command: one module for each of its subjects."""

import logging
from collections.abc import Sequence

import typer

from halspan.cli import data, judge, score
from halspan.console import answer_ctrl_c, report_error, show_logs
from halspan.core.errors import ConfigError, HalspanError
from halspan.core.threads import keep_threads_from_spinning

app = typer.Typer(
    name="halspan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.command()(judge.judge)
app.command()(judge.compare)
app.command()(score.score)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that a person can act on becomes one line and exit status 1 (usage: 2)."""
    answer_ctrl_c()
    keep_threads_from_spinning()
    show_logs(logging.WARNING, plain=True)
    try:
        app(args=arguments)
    except HalspanError as error:
        report_error(error)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None


@app.callback()
def _top() -> None:
    """Find hallucinated words in image captions.

    Start with:  halspan data --help
    """
