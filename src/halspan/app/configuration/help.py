"""The text of `--help`: hydra's template, filled in faster and with the comments of the YAML files."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from string import Template

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from halspan.core.extensions import find_conf_folders
from halspan.resources import find_conf

CONF = find_conf()
FLAGS = ("--help", "-h")
_COMMENTED = re.compile(r"\s*(?P<key>\w+):.*?\s# (?P<comment>.*)")
_EXAMPLE = re.compile(r"(?P<command> +\S.*?) {2,}(?P<says>\S.*)")
_KEY = re.compile(r"(?P<indent>\s*)(?P<key>\w+):")
_COLUMN = 52  # column where comments begin
_NO_TERMINAL = (120, 24)  # columns and lines of output to a file or another program
_READABLE = 120  # largest width of prose, in columns
_BESIDE = 40  # columns that a comment needs next to its key; otherwise it goes above
_INDENT = 20  # indent of the text next to the file of a group


def show_help(root: str, arguments: Sequence[str]) -> str:
    """Return the help text of an entry point, with the groups and values of this command line.

    Hydra takes more than a second for the same, mostly to list its own groups.

    Args:
        root: Name of the root configuration in `conf/`.
        arguments: Command line without the program.
    """
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(root, overrides=overrides, return_hydra_config=True)
    template, choices = config.hydra.help.template, config.hydra.runtime.choices
    groups = {group: choices[group] for group in sorted(choices) if "/" not in group}
    keys = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    width = shutil.get_terminal_size(_NO_TERMINAL).columns
    values = _comment(OmegaConf.to_yaml(keys), root, groups, width)
    text = "\n".join(_fill(template, width))
    return Template(text).safe_substitute(
        APP_CONFIG_GROUPS=_list_groups(groups, [CONF, *find_conf_folders()], width), CONFIG=values
    )


def _fill(text: str, width: int) -> Iterator[str]:
    """Wrap the paragraphs of a text; the comment on an example that is too long goes below it."""
    for is_prose, lines in groupby(text.split("\n"), lambda line: line[:1] not in ("", " ", "$")):
        if is_prose:
            yield from _wrap(" ".join(lines), min(width, _READABLE))
            continue
        for line in lines:
            example = _EXAMPLE.fullmatch(line) if len(line) > width else None
            yield line if example is None else example["command"]
            if example:
                yield from _wrap(f"{'':6}{example['says']}", width, indent=6)


def _list_groups(groups: Mapping[str, str | None], folders: Sequence[Path], width: int) -> str:
    """List the files of each group with their first comment, and mark the chosen file."""
    lines = []
    for group, chosen in groups.items():
        lines.append(f"{group}:")
        for file in sorted(file for folder in folders for file in (folder / group).glob("[!_]*.yaml")):
            begin = f"  {'*' if file.stem == chosen else ' '} {file.stem:<{_INDENT - 5}} "
            lines += _wrap(f"{begin}{_first_sentence(file)}", width, indent=_INDENT)
    return "\n".join(lines) + "\n"


def _first_sentence(file: Path) -> str:
    """Return the first sentence of the comment that a YAML file opens with."""
    comments = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    text = " ".join(line for line in comments if not line.startswith("@"))
    return re.split(r"(?<=\.) |(?= Command:)", text.removeprefix("What: "))[0]


def _comment(values: str, root: str, groups: Mapping[str, str | None], width: int) -> str:
    """Add the comments of the YAML files behind each key, or above it on a narrow terminal."""
    comments: dict[str, str] = {}
    for group in groups:
        for file in sorted((CONF / group).glob("*.yaml"), key=lambda file: file.stem == groups[group]):
            comments |= {f"{group}.{path}": comment for path, comment in _comments_in(file).items()}
    comments |= _comments_in(CONF / f"{root}.yaml")
    lines = []
    for path, line in _with_paths(values):
        if "_target_" not in line:
            lines += _annotate(line, comments.get(path, ""), width)
    return "\n".join(lines)


def _annotate(line: str, comment: str, width: int) -> list[str]:
    if not comment:
        return [line]
    if width >= _COLUMN + _BESIDE:
        return _wrap(f"{line:<{_COLUMN}}  # {comment}", width, indent=_COLUMN + 2, again="# ")
    indent = len(line) - len(line.lstrip())
    return [*_wrap(f"{' ' * indent}# {comment}", width, indent=indent, again="# "), line]


def _wrap(line: str, width: int, *, indent: int = 0, again: str = "") -> list[str]:
    """Wrap a line at spaces; continuation lines are indented and begin with a mark."""
    begin, rest = line[:indent], line[indent:]
    return textwrap.wrap(
        rest,
        width,
        initial_indent=begin,
        subsequent_indent=" " * indent + again,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _comments_in(file: Path) -> dict[str, str]:
    """Return the comment behind each key, by its dotted path."""
    matches = ((path, _COMMENTED.fullmatch(line)) for path, line in _with_paths(file.read_text(encoding="utf-8")))
    return {path: match["comment"] for path, match in matches if match}


def _with_paths(text: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted path of its key with each line of a YAML file; the path is empty for a line without a key."""
    parents: dict[int, str] = {}
    for line in text.splitlines():
        if (match := _KEY.match(line)) is None:
            yield "", line
            continue
        indent = len(match["indent"])
        parents = {depth: key for depth, key in parents.items() if depth < indent} | {indent: match["key"]}
        yield ".".join(parents.values()), line
