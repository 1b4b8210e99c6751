"""Change one place of the code at a time, in a copy, and see whether a test notices.

Command: python experiments/mutations/check.py            # what results.jsonl already has is not run again
         python experiments/mutations/check.py survivors  # those that survived, after tests were added
         python experiments/mutations/check.py table > experiments/mutations/RESULTS.md  # of docs/mutations.md
"""

import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutants import Mutant, draw

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.jsonl"
WORK = ROOT / "build" / "mutations"
TREE = WORK / "tree"
SECONDS = 3600
"""Limit for all tests of one mutant; pytest has one for each."""

OPTIONS = ["-o", "addopts=", "-o", "pythonpath=src tests experiments/shapes_backbone", "-p", "no:cacheprovider"]
OPTIONS += ["-q", "-rfE", "--tb=no", "-m", "not slow"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
LIBRARIES = ("torch", "transformers", "peft", "pytorch_lightning", "hypothesis")
"""Imported once; the tests of a mutant run in a fork."""

Row = dict[str, str | None]


def prepare() -> None:
    """Copy what git tracks, and check that tests import the copy."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        (TREE / name).write_bytes((ROOT / name).read_bytes())
    package = "src/halspan/core/__init__.py"
    write(package, "raise RuntimeError")
    if run_tests("tests/core/test_taxonomy.py")[0] == 0:
        raise RuntimeError(f"{TREE / package} cannot be imported, and tests pass: they do not import the copy")
    write(package, (ROOT / package).read_text(encoding="utf-8"))


def write(path: str, text: str) -> None:
    """Write a module of the copy, and remove what was compiled of it: that may be as long and of the same second."""
    file = TREE / path
    file.write_text(text, encoding="utf-8")
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()


def run_tests(*options: str) -> tuple[int, str]:
    """Run tests in the copy; return the exit status, and the test that failed first."""
    child = multiprocessing.get_context("fork").Process(target=_run_in_copy, args=(options,))
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
        return 1, "hangs"
    output = (WORK / "output").read_text(encoding="utf-8", errors="replace")
    failed = re.search(r"^(?:FAILED|ERROR) ([^\s[]+)", output, flags=re.MULTILINE)
    return child.exitcode or 0, failed[1] if failed else f"pytest, with exit status {child.exitcode}"


def _run_in_copy(options: tuple[str, ...]) -> None:
    os.chdir(TREE)
    with (WORK / "output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.exit(pytest.main([*OPTIONS, *options]))


def test_files(mutant: Mutant) -> list[str]:
    """Return the test files that import a mutant's module or are of its room; first those that are called like it."""
    module = Path(mutant.path)
    room = ROOT / "tests" / module.parent.name
    name = ".".join(module.with_suffix("").parts[1:])
    files = set(room.glob("test_*.py"))
    files |= {file for file in (ROOT / "tests").rglob("test_*.py") if name in file.read_text(encoding="utf-8")}

    def order(file: Path) -> tuple[bool, bool, bool, Path]:
        is_like_it = module.stem in file.stem
        return not is_like_it, name not in file.read_text(encoding="utf-8"), room not in file.parents, file

    return [file.relative_to(ROOT).as_posix() for file in sorted(files, key=order)]


def table(rows: list[Row]) -> Iterator[str]:
    """Yield the lines of a table of mutants, each with its last result."""
    first = {(row["place"], row["change"]): row["caught_by"] for row in reversed(rows)}
    last = {(row["place"], row["change"]): row["caught_by"] for row in rows}
    yield from ("| Place in `src/halspan` | Change | Caught by |", "|---|---|---|")
    for (place, change), caught_by in last.items():
        where = str(place).removeprefix("src/halspan/").rpartition(":")[0]
        name = f"`{caught_by.removeprefix('tests/')}`" if caught_by else "survived"
        added = "" if first[place, change] or not caught_by else ", added"
        yield f"| `{where}` | {str(change).replace('|', chr(92) + '|')} | {name}{added} |"


def main() -> None:
    """Run the mutants that have no result yet, or, if asked, the survivors again."""
    rows: list[Row] = []
    if RESULTS.exists():
        rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    if sys.argv[1:] == ["table"]:
        print(*table(rows), sep="\n")
        return
    os.environ |= OFFLINE
    for name in LIBRARIES:
        importlib.import_module(name)
    known = {(row["place"], row["change"]): row["caught_by"] for row in rows}
    prepare()
    for mutant in draw(ROOT):
        is_due = (mutant.place, mutant.change) not in known
        if sys.argv[1:] == ["survivors"]:
            is_due = known.get((mutant.place, mutant.change), "new") is None
        if is_due:
            original = (ROOT / mutant.path).read_text(encoding="utf-8")
            write(mutant.path, mutant.source)
            status, failed = run_tests("-x", *test_files(mutant))
            write(mutant.path, original)
            row = {"place": mutant.place, "change": mutant.change, "caught_by": failed if status else None}
            with RESULTS.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
