"""Documents name what is there, and wrap at 100 columns."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import ROOT

from halspan.app.configuration import former_names

WIDTH = 100
PACKAGE = ROOT / "src" / "halspan"
_FOLDERS = ("", "docs/**/", "experiments/**/", "benchmarks/", "tests/extension/")
DOCUMENTS = sorted(path for folder in _FOLDERS for path in ROOT.glob(f"{folder}*.md"))
MUST_BE_THERE = {"README.md", "ARCHITECTURE.md", "docs/index.md", "experiments/LOG.md", "benchmarks/RESULTS.md"}
_FENCE = re.compile(r"\s*(```|:::)")
_LINK = re.compile(r"\]\([^)\s]*\)|https?://\S+")
_TARGET = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
_PATH = re.compile(r"[\w.<>*-]+(?:/[\w.<>*-]+)+/?")
_TOPS = ("docs", "src", "conf", "experiments", "benchmarks", "tests", "checkpoints/shapes_backbone")
_CODE = re.compile(r"`([^`\n]+)`")
_OURS = re.compile(r"[\w-]+(/[\w-]+)+\.(py|yaml|md|toml|css|js)")
_INCLUDED = re.compile(r"```\{(?:literalinclude|include|image)\} (\S+)")
_BRITISH = re.compile(
    "colour|grey|centre|behaviour|neighbour|favour|label+led|label+ling|licence|judgement|misspelt|modelling|towards|"
    "[a-z]{3}(?:al|im|in|gan|tor|mar|chron|ken|ogn|ant|der|ari)is(?:e|ed|es|ing|ation|able)\\b",
    re.IGNORECASE,
)
_NOT_BRITISH = re.compile("aria-labelledby|rais(?:e|ed|es|ing)|promis|premise|aris(?:e|es|ing)|otherwise|comparis")
_SPELLED = (".py", ".md", ".yaml", ".toml", ".j2", ".js", ".css", ".sh")
BRITISH_WORDS_OF_THE_SHAPES_WORLD = {
    "src/halspan/data/shapes/generators.py",
    "src/halspan/data/shapes/language.py",
    "src/halspan/data/shapes/render.py",
    "src/halspan/data/shapes/scenes.py",
    "tests/shapes/test_language.py",
    "tests/shapes/test_world.py",
    "README.md",
    "CONTRIBUTING.md",
}


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines outside of fences, with their numbers."""
    is_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if _FENCE.match(line):
            is_code = not is_code
        elif not is_code:
            yield number, line


def named_paths(file: Path) -> Iterator[str]:
    """Yield the paths that a document names: targets of links, what it includes, and files between backticks."""
    text = file.read_text(encoding="utf-8")
    yield from (match[1] for match in _INCLUDED.finditer(text))
    for _, line in prose(text):
        yield from (target for target in _TARGET.findall(line) if "://" not in target)
        for code in _CODE.findall(line):
            if _OURS.fullmatch(code) or (_PATH.fullmatch(code) and code.startswith(tuple(f"{top}/" for top in _TOPS))):
                yield code


def is_there(path: str, file: Path) -> bool:
    """Return whether a path exists, from the document's folder, the top, the package or the tests."""
    return "<" in path or any((place / path).exists() for place in (file.parent, ROOT, PACKAGE, ROOT / "tests"))


def tree() -> list[str]:
    """Return the paths in README's file tree."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(block for block in text.split("```") if block.startswith("\ntrain.py "))
    columns = [line.split("  ")[0] if "  " in line else line.split(" ")[0] for line in block.strip().splitlines()]
    return [path for column in columns for path in column.split()]


def test_the_documents_are_found():
    assert {path.relative_to(ROOT).as_posix() for path in DOCUMENTS} >= MUST_BE_THERE


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_wraps_at_100_columns(file):
    lines = ((number, _LINK.sub("", line)) for number, line in prose(file.read_text(encoding="utf-8")))
    long = {number: len(line) for number, line in lines if len(line) > WIDTH and not line.lstrip().startswith("|")}
    assert not long, f"{file.relative_to(ROOT)}: lines longer than {WIDTH} columns: {long}"


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_names_files_that_are_there(file):
    missing = [path for path in named_paths(file) if not is_there(path, file)]
    assert not missing, f"{file.relative_to(ROOT)} names what is not there: {missing}"


def test_the_tree_in_the_readme_is_what_is_there():
    paths = tree()
    assert [path for path in paths if not (ROOT / path).exists()] == []
    folders = {path.parent.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("__init__.py")} - {"src/halspan"}
    assert sorted(folders - {path.rstrip("/") for path in paths}) == []
    top = {path.name for path in ROOT.glob("*.py")}
    assert top <= set(paths)


def test_every_file_of_the_example_package_stands_in_a_guide():
    package = ROOT / "tests" / "extension"
    files = {path for end in ("py", "yaml", "toml") for path in package.rglob(f"*.{end}") if "build" not in path.parts}
    shown = {
        (guide.parent / match[1]).resolve()
        for guide in (ROOT / "docs" / "guides").glob("*.md")
        for match in _INCLUDED.finditer(guide.read_text(encoding="utf-8"))
    }
    assert {path for path in files if path.name != "__init__.py"} <= shown


def test_old_names_in_configurations_are_listed_with_what_they_are_called_now():
    text = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    names = former_names.SPECS | former_names.TYPED
    assert [old for old, now in names.items() if f"| `{old}` | `{now}` |" not in text] == []


def test_old_modules_are_called_what_is_there():
    text = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8").partition("## Old modules")[2]
    names = re.findall(r"^\| `[\w.]+` \| `halspan\.([\w.]+)` \|$", text, flags=re.MULTILINE)
    assert len(names) > 50
    places = [PACKAGE / name.replace(".", "/") for name in names]
    assert [place for place in places if not (place.is_dir() or place.with_suffix(".py").is_file())] == []


def test_words_are_spelled_in_the_american_way():
    tops = ("src", "conf", "tests", "experiments", "benchmarks", "docs")
    files = [file for top in tops for file in (ROOT / top).rglob("*") if file.suffix in _SPELLED]
    files += [file for file in ROOT.iterdir() if file.suffix in _SPELLED]
    files.remove(Path(__file__))
    assert len(files) > 300
    found = {
        file.relative_to(ROOT).as_posix(): words
        for file in files
        if (words := _BRITISH.findall(_NOT_BRITISH.sub("", file.read_text(encoding="utf-8"))))
    }
    assert set(found) <= BRITISH_WORDS_OF_THE_SHAPES_WORLD, found
    assert {word for words in found.values() for word in words} == {"centre", "grey"}
