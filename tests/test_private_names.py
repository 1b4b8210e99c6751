"""Private names of libraries stand in one module for each library, with the versions that have them."""

import ast
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SOURCE = Path(__file__).parents[1] / "src"
HOMES = {
    "bitsandbytes": "models/private/bitsandbytes.py",
    "peft": "models/private/peft.py",
    "pytorch_lightning": "training/private_lightning.py",
    "torch": "models/private/torch.py",
    "transformers": "models/private/transformers.py",
}
"""The module, below `src/halspan`, for the private names of each library."""

FILES = sorted(SOURCE.rglob("*.py"))
ATTENTION = "models/private/attention.py"  # of transformers, apart because more code needs it than its quantizers
ELSEWHERE = [
    file for file in FILES if file.relative_to(SOURCE / "halspan").as_posix() not in (*HOMES.values(), ATTENTION)
]


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.endswith("_") and name != "_"


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield names with a leading underscore of anything but the module and the object that use them."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(value=ast.Name(id="os"), attr="_exit"):  # documented
                pass
            case ast.Attribute(attr=name) | ast.keyword(arg=name) if is_private(name):
                yield name
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from filter(is_private, (*module.split("."), *(alias.name for alias in names)))
            case ast.Import(names=names):
                yield from filter(is_private, (part for alias in names for part in alias.name.split(".")))
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=name), *_]):
                if is_private(name):
                    yield name


def inherited_names(file: Path) -> Iterator[str]:
    """Yield private names that a class takes from a class of a library, or replaces there."""
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef) and node.bases]
    if not classes:
        return
    module = import_module(".".join(file.relative_to(SOURCE).with_suffix("").parts))
    for node in classes:
        class_ = getattr(module, node.name)
        defined = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        used = defined | {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
        for base in class_.__mro__[1:]:
            if base.__module__.partition(".")[0] in HOMES:
                there = vars(base).keys() | getattr(base, "__annotations__", {}).keys()
                yield from filter(is_private, used & there)


def test_private_names_stand_in_the_modules_for_them():
    found = {str(file): names for file in ELSEWHERE if (names := [*private_names(ast.parse(file.read_text()))])}
    assert found == {}


def test_no_class_uses_or_replaces_a_private_name_of_its_library_elsewhere():
    assert {str(file): names for file in ELSEWHERE if (names := [*inherited_names(file)])} == {}


@pytest.mark.parametrize(
    "code",
    [
        "model._from_config(config)",
        "super()._preprocess(images)",
        "cached_file(name, _raise_exceptions_for_missing_entries=False)",
        "from peft.tuners.lora.layer import _LoraParameterProxy",
        "from torch._dynamo import config",
        "import torch._dynamo",
        "getattr(layer, '_cast_input_dtype')",
    ],
)
def test_a_private_name_is_found(code):
    assert len([*private_names(ast.parse(code))]) == 1


def test_a_private_method_that_replaces_one_of_a_library_is_found():
    names = {name for library in HOMES for name in inherited_names(SOURCE / "halspan" / HOMES[library])}
    assert {"_apply", "_preprocess", "_process_model_before_weight_loading"} <= names


@pytest.mark.parametrize("library", HOMES)
def test_each_of_these_modules_says_for_which_versions_its_names_are(library):
    described, *_ = (SOURCE / "halspan" / HOMES[library]).read_text().split("\n")
    assert "as they are in " in described
    assert any(character.isdigit() for character in described)


@pytest.mark.parametrize("library", HOMES)
def test_each_of_these_libraries_has_an_upper_bound(library):
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    wanted = map(Requirement, (*project["dependencies"], *project["optional-dependencies"]["train"]))
    (bounds,) = (each.specifier for each in wanted if each.name.replace("-", "_") == library)
    assert {bound.operator for bound in bounds} == {">=", "<"}
    assert bounds.contains(version(library))
