import re

import pytest
from small_runs import ROOT

from halspan.app.configuration.help import show_help

NEVER_BROKEN = re.compile(r" +(python|Detector|detector)\b.*|\s*question: .*")  # what is copied goes on as one line


@pytest.mark.parametrize("root", ["config", "evaluate", "export"])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_help_fits_the_terminal(monkeypatch, root, width):
    monkeypatch.setenv("COLUMNS", str(width))
    long = [line for line in show_help(root, []).splitlines() if len(line) > width]
    assert [line for line in long if not NEVER_BROKEN.fullmatch(line)] == []
    assert width < 80 or long == []


@pytest.mark.parametrize("width", [60, 80, 200])
def test_help_has_all_words_of_every_comment_and_file_at_any_width(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = re.sub(r"\s+(# )?", " ", show_help("config", []))
    for file in (ROOT / "conf").glob("*/[!_]*.yaml"):
        assert f" {file.stem} " in text
    for comment in re.findall(r"# (.*)", (ROOT / "conf" / "config.yaml").read_text().partition("defaults:")[2]):
        assert comment in text
    assert "experiment=NAME chooses a file of every group and sets a few keys." in text


def test_a_comment_stands_beside_its_key_where_there_is_room_and_above_it_where_not(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "\n# continue from last.ckpt; auto: if there is one, else begin\nresume: false\n" in show_help("config", [])
    monkeypatch.setenv("COLUMNS", "120")
    assert re.search(
        r"\nresume: false {30,}# continue from last.ckpt; auto: if there is one, else begin\n", show_help("config", [])
    )
