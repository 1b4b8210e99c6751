"""Mutants: single places of the code, each with a small change that a test should notice."""

import ast
import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

SEED, PER_ROOM = 13, 15
ROOMS: dict[str, Sequence[str]] = {"core": "*", "metrics": "*", "training": "*"}
ROOMS |= {"inference": ("scorer", "forward", "windows", "scores")}  # of inference, the one scorer
_PAIRS: list[tuple[type[ast.AST], type[ast.AST]]] = [
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)),
    *((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.And, ast.Or), (ast.BitAnd, ast.BitOr)),
]
_SWAPS = dict(_PAIRS) | {right: left for left, right in _PAIRS}
_SWAPS |= {ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sum": "max", "minimum": "maximum"}
_SKIPPED = {"annotation", "returns", "decorator_list", "bases"}  # fields that do not say what code does
_Change = tuple[ast.AST, ast.AST]


@dataclass(frozen=True)
class Mutant:
    """A change of one place.

    Attributes:
        place: Path, line and column, with colons between them.
        change: What stands there, and what stands there then.
        path: Path of the module in the repository.
        lines: First and last line that run if the place does.
        source: Source of the changed module.
    """

    place: str
    change: str
    path: str
    lines: tuple[int, int]
    source: str


def draw(root: Path) -> Iterator[Mutant]:
    """Draw mutants with a fixed seed, as many from each room."""
    for room, names in ROOMS.items():
        files = sorted(file for name in names for file in (root / "src" / "halspan" / room).glob(f"{name}.py"))
        found = [(file, *place) for file in files for place in _places(ast.parse(file.read_text(encoding="utf-8")))]
        chosen = random.Random(SEED).sample(range(len(found)), PER_ROOM)
        yield from (_make(root, *found[index]) for index in sorted(chosen))


def _make(root: Path, file: Path, statement: ast.stmt, change: _Change) -> Mutant:
    old, new = change
    first, last = _bounds(old)
    path = file.relative_to(root).as_posix()
    code = file.read_bytes()
    text = ast.unparse(new) if isinstance(new, ast.stmt) else f"({ast.unparse(new)})"
    starts = [0]
    for line in code.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    before, after = code[: starts[first[0] - 1] + first[1]], code[starts[last[0] - 1] + last[1] :]
    source = before.decode() + text + after.decode()
    ast.parse(source)
    what = f"`{ast.unparse(old)}` to `{ast.unparse(new)}`"
    return Mutant(f"{path}:{first[0]}:{first[1]}", what, path, (statement.lineno, last[0]), source)


def _bounds(node: ast.AST) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the line and the column, in bytes, of a node's first character and of what follows it."""
    if not isinstance(node, ast.expr | ast.stmt) or node.end_lineno is None or node.end_col_offset is None:
        raise TypeError(f"{node} has no place in the source")
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _places(node: ast.AST, statement: ast.stmt | None = None) -> Iterator[tuple[ast.stmt, _Change]]:
    """Yield the changes in a tree in order, each with the statement that it is in."""
    if _is_message_or_type(node):
        return
    statement = node if isinstance(node, ast.stmt) else statement
    yield from ((statement, change) for change in _changes(node) if statement is not None)
    for name, field in ast.iter_fields(node):
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST) and name not in _SKIPPED:
                yield from _places(child, statement)


def _is_message_or_type(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).split(".")[0] in {"logger", "isinstance"}
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr)
    return isinstance(node, ast.Raise | ast.JoinedStr)


def _changes(node: ast.AST) -> Iterator[_Change]:
    """Yield the changes of a node, each with the node that it replaces."""
    match node:
        case ast.Compare(ops=operators):
            yield from ((node, _swapped(node, index)) for index in range(len(operators)))
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) | ast.BoolOp(op=operator) if type(operator) in _SWAPS:
            yield node, _swapped(node)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield node, operand
        case ast.Constant(value=bool() | int() | float() as value):
            yield node, ast.Constant(not value if isinstance(value, bool) else value + 1)
        case ast.Call(func=ast.Name(id=name) as called) if name in _NAMES:
            yield called, ast.Name(_NAMES[name])
        case ast.Call(func=ast.Attribute(value=of, attr=name) as called) if name in _NAMES:
            yield called, ast.Attribute(of, _NAMES[name])
        case ast.Return(value=ast.expr() as given) if ast.unparse(given) != "None":
            yield node, ast.Return(ast.Constant(None))
        case ast.Slice(lower=lower, upper=upper):
            bounds = [bound for bound in (lower, upper) if bound and not isinstance(bound, ast.Constant | ast.UnaryOp)]
            yield from ((bound, ast.BinOp(bound, ast.Add(), ast.Constant(1))) for bound in bounds)


def _swapped(node: ast.AST, index: int | None = None) -> ast.AST:
    """Return a copy of a node with its operator, or that of a comparison with this index, exchanged."""
    new: Any = deepcopy(node)
    if index is None:
        new.op = _SWAPS[type(new.op)]()
    else:
        new.ops[index] = _SWAPS[type(new.ops[index])]()
    return cast(ast.AST, new)
