import io
import logging
import re

import pytest
from rich.console import Console

from halspan.console import (
    new_table,
    open_console,
    report_error,
    show_logs,
    silence_other_bars,
    track,
    without_other_bars,
)
from halspan.core.text.printable import printable

NAMES = ("gpt\x1b[31m\x9b2J4", "a\u202eb\u2066c", "[red]bold[/red] :smile:", "line\nINFO all is well\r", "\ud800")
SHOWN = (
    r"gpt\x1b[31m\x9b2J4",
    r"a\u202eb\u2066c",
    "[red]bold[/red] :smile:",
    r"line\nINFO all is well\r",
    r"\ud800",
)
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def root_logger():
    """Leave the handlers of the process as they were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), logging.getLogger("halspan").level
    yield root
    root.handlers[:] = handlers
    logging.getLogger("halspan").setLevel(level)


def shown(part, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(part)
    return console.file.getvalue()


@pytest.mark.parametrize(("name", "text"), list(zip(NAMES, SHOWN, strict=True)))
def test_what_steers_a_terminal_is_written_as_an_escape(name, text):
    assert printable(name) == text


def test_text_of_all_scripts_stays_as_it_is():
    text = "שלום مرحبا नमस्ते 👩‍👩‍👧 é c\u0327 \u200f"
    assert printable(text) == text


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_a_table_shows_hostile_names_as_text(width):
    table = new_table("names \x1b[1m", "name", "figure \x1b[1m")
    for name in NAMES:
        table.add_row(name, "0.5")
    text = shown(table, width)
    assert not STEERING.search(text)
    for name in SHOWN:
        assert name.replace(" ", "") in re.sub(r"\s+", "", text)


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_a_table_never_breaks_a_name_that_has_room_and_no_figure(width):
    names = ["gpt4o-imagen-with-a-long-name", "sd"]  # 29 characters
    columns = ["captions", "incorrect sentences", "AUROC", "95 % interval", "P(A better)"]
    table = new_table("Title", "generator", *columns)
    for name in names:
        table.add_row(name, "1,200", "25 %", "0.971", "0.900 to 0.990", "0.812")
    text = shown(table, width)
    assert max(map(len, text.splitlines())) <= width
    for whole in (*names, "1,200", "25 %", "0.971", "0.900 to 0.990", "0.812"):
        assert whole in text
    for column in columns:
        assert all(word in text for word in column.split())
    assert "…" not in text


def test_a_wide_console_has_one_row_a_line_and_a_narrow_one_a_block():
    table = new_table("Title", "generator", "captions", "AUROC")
    table.add_row("narrator", "1,200", "0.971")
    assert ["narrator", "1,200", "0.971"] in [line.split() for line in shown(table, 40).splitlines()]
    assert shown(table, 16).splitlines()[1:] == ["narrator", "  captions 1,200", "  AUROC 0.971"]


def test_a_name_longer_than_the_console_goes_on_below():
    table = new_table("Title", "generator", "AUROC")
    table.add_row("x" * 50, "0.5")
    assert shown(table, 40).splitlines()[1:3] == ["x" * 40, "x" * 10]


def test_a_console_takes_text_as_text(capsys):
    for name in NAMES[:-1]:
        open_console().print(f"generator {name}", soft_wrap=True)
    assert capsys.readouterr().out.splitlines() == [f"generator {name}" for name in SHOWN[:-1]]


def test_where_no_terminal_is_lines_are_long_unless_columns_says_otherwise(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert open_console().width == 160
    monkeypatch.setenv("COLUMNS", "60")
    assert open_console().width == 60


def test_an_error_shows_hostile_names_as_text_and_no_line_that_could_be_another_message(capsys):
    report_error(ValueError(f"no {NAMES[0]} {NAMES[3]}: first\nsecond"))
    assert capsys.readouterr().err.splitlines() == [
        rf"error: no {SHOWN[0]} line",
        r"  INFO all is well\r: first",
        "  second",
    ]


@pytest.mark.parametrize("plain", [True, False])
def test_a_log_line_shows_hostile_names_as_text(capsys, monkeypatch, root_logger, plain):
    monkeypatch.setenv("COLUMNS", "200")
    root_logger.handlers.clear()  # pytest's too: its workers cannot send a lone surrogate home
    show_logs(logging.INFO, plain=plain)
    for name in NAMES:
        logging.getLogger("halspan.test").info("generator %s", name)
    error = capsys.readouterr().err
    assert not STEERING.search(error)
    assert all(line.startswith(("INFO", "  ")) for line in error.splitlines())
    for name in (SHOWN[0], SHOWN[1], SHOWN[2], SHOWN[4]):
        assert f"generator {name}" in error


def test_of_other_libraries_warnings_are_shown_but_one_about_a_kernel_that_nothing_needs(capsys, root_logger):
    show_logs(logging.INFO, plain=True)
    others = logging.getLogger("bitsandbytes.backends.cpu.ops")
    others.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no kernels")
    others.warning("a real one")
    others.info("an advertisement")
    assert capsys.readouterr().err == "WARNING: a real one\n"


def test_logs_are_shown_once_however_many_commands_a_process_has_run(capsys, root_logger):
    for _ in range(2):
        show_logs(logging.INFO, plain=True)
    logging.getLogger("halspan.test").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_the_bars_of_transformers_are_silent_and_those_of_downloads_stay(capsys):
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_progress_bar()
    try:
        silence_other_bars()
        assert list(transformers_logging.tqdm([1, 2], desc="Loading weights")) == [1, 2]
        assert capsys.readouterr().err == ""
        assert not are_progress_bars_disabled()
    finally:
        transformers_logging.enable_progress_bar()
        enable_progress_bars()


def test_a_bar_where_no_terminal_is_leaves_no_trace(capsys):
    assert list(track([1, 2], "scoring val", total=2)) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_loading_is_silent_and_leaves_the_bars_of_its_user_as_they_were(capsys):
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    try:
        for switch in (transformers_logging.enable_progress_bar, transformers_logging.disable_progress_bar):
            switch()
            before = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
            with without_other_bars():
                assert list(transformers_logging.tqdm([1, 2], desc="Loading weights")) == [1, 2]
            assert (transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before
        assert capsys.readouterr().err == ""
    finally:
        transformers_logging.enable_progress_bar()
        enable_progress_bars()
