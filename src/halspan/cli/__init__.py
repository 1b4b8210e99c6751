"""The `halspan` console command, with one module per subject."""

import logging
import sys
from collections.abc import Sequence

import typer

from halspan.app.configuration import former_names
from halspan.cli import application, data, judge, score
from halspan.console import answer_ctrl_c, report_error, show_logs
from halspan.core.errors import ConfigError, HalspanError
from halspan.core.process import keep_threads_from_spinning

app = typer.Typer(
    name="halspan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _help in application.COMMANDS.items():
    app.command(_name, help=_help)(application.listed(_name))
app.add_typer(data.app, name="data")
app.command()(judge.judge)
app.command()(judge.compare)
app.command()(score.score)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that a person can act on becomes one line and exit status 1 (usage: 2)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _check_former(words)
        if words and words[0] in application.COMMANDS:  # before typer, which would read -m and --help itself
            application.run(words[0], words[1:])
        answer_ctrl_c()
        keep_threads_from_spinning()
        show_logs(logging.WARNING, plain=True)
        app(args=words)
    except HalspanError as error:
        report_error(error)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None


def _check_former(words: Sequence[str]) -> None:
    """Refuse a command or an option of an earlier version with what it is called now."""
    commands = [" ".join(["halspan", *words[:length]]) for length in (1, 2)]
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    for typed in (*commands, *(f"{command} {option}" for command in commands for option in options)):
        if (answer := former_names.explain(typed)) is not None:
            raise ConfigError(answer)


@app.callback()
def _top() -> None:
    """Find hallucinated words in image captions.

    Each command has a --help of its own.

    Examples:
      halspan train --help
      halspan data check captions.jsonl
      halspan score -d exports/shapes -i captions.jsonl -o scored.jsonl
    """
