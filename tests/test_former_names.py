"""A name of an earlier version answers with what it is called now."""

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module

import pytest
import yaml
from omegaconf import OmegaConf
from small_runs import ROOT, configuration
from typer.main import get_command

from halspan import cli
from halspan.app.configuration import configure, former_names
from halspan.app.configuration.specs import SPECS, find_specs
from halspan.core.errors import ConfigError

PRESENT = sorted({name for key in [*SPECS, "data"] for name in find_specs(key)})


def former_specs() -> Iterable[tuple[str, str, str]]:
    """Yield the key, the former and the present name of every spec that has a former one."""
    for key in [*SPECS, "data"]:
        for name in find_specs(key):
            for old, now in former_names.SPECS.items():
                if name.startswith(now):
                    yield key, old + name[len(now) :], name


def typed_now() -> set[str]:
    """Return the keys, files of groups, commands and options that there are."""
    files = [file for file in (ROOT / "conf").glob("*/[!_]*.yaml") if file.parent.name != "experiment"]
    names = {f"{file.parent.name}={file.stem}" for file in (ROOT / "conf").glob("*/*.yaml")} | commands()
    for file in files:
        names |= set(flat(OmegaConf.to_container(configuration(f"{file.parent.name}={file.stem}"))))
    for root in ("evaluate", "export"):
        names |= set(flat(yaml.safe_load((ROOT / "conf" / f"{root}.yaml").read_text(encoding="utf-8"))))
    return names


def flat(node: object, place: str = "") -> Iterable[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        full = f"{place}.{key}".removeprefix(".")
        yield full
        yield from flat(value, full)


def commands() -> set[str]:
    """Return the commands of `halspan`, and each with each of its options."""
    found = set()
    waiting = [("halspan", get_command(cli.app))]
    while waiting:
        name, command = waiting.pop()
        found |= {name} | {f"{name} {option}" for of in command.params for option in of.opts}
        waiting += [(f"{name} {child}", of) for child, of in getattr(command, "commands", {}).items()]
    return found


def test_every_prefix_of_the_table_is_a_former_name_of_a_spec():
    used = {old for _, former, _ in former_specs() for old in former_names.SPECS if former.startswith(old)}
    assert used == set(former_names.SPECS)


@pytest.mark.parametrize(("key", "former", "now"), list(former_specs()))
def test_a_former_spec_answers_with_its_present_name(key, former, now):
    with pytest.raises(ConfigError) as error:
        configure.build(OmegaConf.create({"_target_": former}), key)
    assert str(error.value) == f"{key}._target_: {former} is called {now} now".removeprefix(".")


@pytest.mark.parametrize("former", [former for _, former, _ in former_specs()])
def test_no_former_spec_is_there_still(former):
    module, _, name = former.rpartition(".")
    try:
        loaded = import_module(module)
    except ModuleNotFoundError:
        return
    assert former not in PRESENT
    assert getattr(loaded, name, None) is None or former_names.find_spec(former) in PRESENT


def test_a_former_spec_on_a_command_line_is_one_line():
    ended = subprocess.run(
        [sys.executable, ROOT / "train.py", "data=jsonl", "data.path=x", "data._target_=halspan.data.jsonl.JsonLines"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == (
        "error: data._target_: halspan.data.jsonl.JsonLines is called halspan.data.readers.jsonl.JsonLines now\n"
    )
    assert ended.returncode == 2


def test_what_is_typed_now_is_found():
    assert typed_now() >= {"trainer.rows_per_batch", "clipscore.model", "merge", "data=jsonl", "halspan score --resume"}


def test_nothing_in_the_table_is_there_still_and_what_it_is_called_now_is():
    names = typed_now()
    assert [typed for typed in former_names.TYPED if typed in names] == []
    assert [now for now in former_names.TYPED.values() if now not in names] == []


@pytest.mark.parametrize(
    ("command", "old", "now"),
    [
        ("train trainer.batch=3", "trainer.batch", "trainer.rows_per_batch"),
        ("train data=lines data.path=x", "data=lines", "data=jsonl"),
        ("data look x.jsonl", "halspan data look", "halspan data check"),
        ("score --continue --input x", "halspan score --continue", "halspan score --resume"),
        ("score --file=x", "halspan score --file", "halspan score --input"),
    ],
)
def test_a_former_key_file_command_or_option_answers_with_what_it_is_called_now(monkeypatch, capsys, command, old, now):
    monkeypatch.setitem(former_names.TYPED, old, now)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command sets it, and the next test gets it back
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit) as end:
        cli.main(command.split())
    assert re.sub(r"\s+", " ", capsys.readouterr().err) == f"error: {old} is called {now} now "
    assert end.value.code == 2


def test_a_former_key_in_a_file_answers_with_what_it_is_called_now(monkeypatch):
    monkeypatch.setitem(former_names.TYPED, "judge.most", "judge.captions")
    with pytest.raises(ConfigError, match=r"^judge\.most is called judge\.captions now$"):
        configure.build(OmegaConf.create({"_target_": "halspan.evaluation.sampling.JudgeSpec", "most": 3}), "judge")
