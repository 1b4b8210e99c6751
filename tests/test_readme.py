"""README's commands work: each is run, made small where it is long, or listed here with the reason why it is not."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from small_runs import ROOT

from halspan.data.readers.alignbench import AlignBench
from halspan.testing.small_corpora import write_corpus
from halspan.testing.tiny_dual_encoders import saved

pytestmark = pytest.mark.timeout(900)  # the first test that asks for the folder waits for all commands

README = (ROOT / "README.md").read_text(encoding="utf-8")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(^|\s)\s*# .*$")
_PROGRAM = re.compile(r"(python|halspan|make|pip) \S")

FEW = "judge.captions=8"
SMALL = f"trainer.max_steps=2 trainer.val_every_steps=2 trainer.threads=1 {FEW}"
WORLD = "data.photos=12"
OF_THE_HUB, TINY = "model=qwen3_vl", "model=llama4_tiny"

RUN = {
    "make quickstart": f"python train.py overwrite=true {SMALL} {WORLD}",
    "python train.py resume=true": f"{SMALL} {WORLD}",
    "python train.py resume=auto": f"{SMALL} {WORLD}",
    "python train.py --help": "",
    "python export.py run=checkpoints/shapes to=exports/shapes": "captions=2",
    "python export.py run=checkpoints/shapes to=exports/merged merge=true": "captions=2",
    "halspan data convert DIR captions.jsonl": "",
    "halspan data check captions.jsonl": "",
    "halspan data stats captions.jsonl": "",
    "halspan score --detector exports/shapes --input captions.jsonl --output scored.jsonl": "",
    "halspan score -d exports/shapes -i captions.parquet -o clean.parquet --max-p-incorrect 0.2 --resume": "",
    "halspan judge scored.jsonl --truth captions.jsonl": "",
    "python train.py data=jsonl data.path=captions.jsonl split.held_out='[gpt4o]' model=llama4_tiny": SMALL,
    "python evaluate.py run=checkpoints/shapes": FEW,
    "python evaluate.py run=checkpoints/shapes data=alignbench data.path=DIR": FEW,
    "python evaluate.py run=[checkpoints/a,checkpoints/b]": FEW,
    "python evaluate.py run=checkpoints/shapes baselines=[bow,clipscore,zero_shot] model=qwen3_vl": (
        f"clipscore.model=siglip {FEW}"
    ),
    "python evaluate.py data=alignbench data.path=DIR baselines=[prior,position,bow]": FEW,
    "halspan compare checkpoints/a checkpoints/b": "--resamples 100",
    "python train.py experiment=llama4_lora plan=true": "",
    "python train.py experiment=llama4_lora model=llama4_tiny trainer=cpu trainer.max_epochs=1 logger=csv "
    "data.path=DIR": SMALL,
}
"""What is appended to each command, so that it takes seconds; in the order in which they can be run."""

AFTER = {
    "python train.py resume=true": [f"cp -r checkpoints/shapes checkpoints/{name}" for name in ("a", "b")],
    "python export.py run=checkpoints/shapes to=exports/shapes": ["python example.py"],
}
"""What to do after a command, for those that come later."""

RUN_SLOWLY = {
    "python train.py overwrite=true": f"{SMALL} {WORLD}",
    "python train.py -m experiment=shapes seed=1,2,3": f"{SMALL} {WORLD}",
    "python train.py -m experiment=shapes split=leave_one_out": f"{SMALL} {WORLD}",
}

PLANS = {
    "python train.py data=jsonl data.path=captions.jsonl split.held_out='[gpt4o]' model=qwen3_vl trainer=gpu": (
        "plan=true"
    ),
    "python train.py experiment=llama4_lora": "--cfg job",
    "python train.py experiment=llama4_lora data.path=DIR": "--cfg job",
    "halspan data download AlignBench/": "--help",
}
"""What is appended to commands that need a network or a GPU, so that they only say what they would do."""

NOT_RUN = {
    "pip install halspan": "takes packages from an index",
    "pip install 'halspan[train,eval]'": "takes packages from an index",
    "make install": "takes packages from an index",
    "make test": "runs this test",
}
"""Commands of which only the names of targets and extras are checked, with the reason."""


def fences(language: str) -> list[str]:
    """Return what stands in README's fences of a language."""
    return [text for of, text in _FENCE.findall(README) if of == language]


def commands() -> list[str]:
    """Return the commands in README, without the comments behind them."""
    lines = (_COMMENT.sub("", line) for text in fences("sh") for line in text.splitlines())
    return [line for line in lines if line]


def write_alignbench(folder: Path) -> None:
    """Write a small corpus as AlignBench does, with the generators that README's commands hold out."""
    file = write_corpus(folder, n_images=24)
    names = {"anna": "llava", "ben": "gpt4o", "cleo": "llama-4", "paint": "sd"}
    rows = [row for line in file.read_text().splitlines() for row in as_rows(json.loads(line), names)]
    file.unlink()
    (folder / "halcap_bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_rows(caption: dict, names: dict[str, str]) -> Iterator[dict]:
    """Give a caption's sentences as rows of AlignBench."""
    for index, sentence in enumerate(caption["sentences"]):
        inside = [span for span in caption["spans"] if sentence["start"] <= span["start"] < sentence["end"]]
        yield {
            "model": names[caption["generator"]],
            "image_path_in_repo": caption["image"],
            "sentence_index": index,
            "caption": caption["text"][sentence["start"] : sentence["end"]],
            "annotation": sentence["label"],
            "error_type": [span["type"] for span in inside],
            "error_words": [caption["text"][span["start"] : span["end"]] for span in inside],
        }


def prepare(folder: Path) -> None:
    """Lay out what README's commands find in the folder where they are typed."""
    for name in ("train.py", "evaluate.py", "export.py"):
        shutil.copy(ROOT / name, folder)
    (example,) = fences("python")
    (folder / "example.py").write_text(example.replace("photos3000", WORLD.replace("data.", "").replace("=", "")))
    write_alignbench(folder / "DIR")
    corpus = AlignBench(path=folder / "DIR").load()
    rows = [caption.to_record() | {"image": str(corpus.image_path(caption))} for caption in corpus.captions]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet")
    (folder / "siglip").symlink_to(saved("siglip"))


def call(folder: Path, lines: Sequence[str]) -> None:
    """Run commands in a folder; each has to succeed."""
    ended = subprocess.run(
        [sys.executable, ROOT / "tests" / "in_one_process.py"],
        cwd=folder,
        input=json.dumps([shlex.split(line) for line in lines]),
        capture_output=True,
        text=True,
        check=False,
    )
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    failed = [(line, of["output"][-2000:]) for line, of in zip(lines, results, strict=False) if of["status"]]
    assert failed == []
    assert len(results) == len(lines), ended.stderr


def sequence(runs: dict[str, str]) -> list[str]:
    """Return commands with what is appended to them, with a tiny model in place of one of the hub."""
    lines = []
    for command, appended in runs.items():
        own = appended if command.startswith("make") else f"{command} {appended}"
        lines += [own.replace(OF_THE_HUB, TINY), *AFTER.get(command, [])]
    return lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run the commands in their order, in one folder."""
    folder = tmp_path_factory.mktemp("readme")
    prepare(folder)
    call(folder, sequence(RUN | PLANS))
    return folder


def test_every_command_is_run_or_listed():
    assert sorted(commands()) == sorted([*RUN, *RUN_SLOWLY, *PLANS, *NOT_RUN])


def test_commands_stand_in_fences_of_a_shell():
    assert [line for text in fences("") for line in text.splitlines() if _PROGRAM.match(line)] == []
    assert [line for line in commands() if not _PROGRAM.match(line)] == []


def test_commands_leave_what_readme_says(folder):
    listing = next(text for text in fences("") if text.startswith("checkpoints/shapes/"))
    names = re.findall(r"^  (\S+(?: \w+\.\w+)?)  ", listing, re.MULTILINE)
    names = [name for line in names for name in line.split()]
    assert len(names) > 8
    assert [name for name in names if not list((folder / "checkpoints/shapes").glob(name))] == []
    assert (folder / "exports/shapes/detector.json").is_file()
    assert (folder / "exports/merged/model.safetensors").is_file()
    assert len((folder / "scored.jsonl").read_text().splitlines()) == len(
        (folder / "captions.jsonl").read_text().splitlines()
    )
    assert (folder / "clean.parquet").is_file()
    assert (folder / "scored/report.html").is_file()
    for run in (
        "jsonl-llama4_tiny",
        "alignbench-llama4_tiny",
        "a+b",
        "baselines-alignbench",
        "shapes/evaluations/alignbench",
    ):
        assert (folder / "checkpoints" / run / "report.html").is_file(), run
    assert json.loads((folder / "checkpoints/shapes/metrics.json").read_text())["test_heldout"]


def test_what_is_not_run_names_targets_and_extras_that_there_are():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in [*NOT_RUN, "make quickstart"]:
        program, *words = shlex.split(command)
        asked = re.findall(r"[\w-]+", words[-1].partition("[")[2]) if program == "pip" else words
        assert set(asked) <= set(extras if program == "pip" else targets), command


def test_make_quickstart_runs_what_the_first_command_of_the_sequence_runs():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nquickstart:")[2].splitlines()[1]
    assert recipe.strip() == "$(BIN)/python train.py overwrite=true"
    assert RUN["make quickstart"].startswith("python train.py overwrite=true ")


@pytest.mark.slow
def test_sweeps_run(folder):
    call(folder, sequence(RUN_SLOWLY))
    sweeps = {len(json.loads(file.read_text())["runs"]) for file in (folder / "checkpoints").glob("*/sweep.json")}
    assert sweeps == {3, 8}
