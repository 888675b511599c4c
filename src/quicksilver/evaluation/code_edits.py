"""Edits of Python files that are known to be right: a name changed everywhere, an argument passed by every caller.

Both are made from the syntax tree, and only where nothing is in doubt: no name that is also an attribute's, an
argument's or a string's, no call that cannot take one argument more.
"""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from quicksilver.evaluation.syntax import parse

LEAST_CALLS = 3
"""Of a function that gets an argument: one shows how, and the others follow."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_ARGUMENTS = (
    ("strict", "True"),
    ("copy", "False"),
    ("timeout", "None"),
    ("verbose", "True"),
    ("limit", "None"),
    ("depth", "0"),
    ("cached", "False"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Insertion:
    """A text that goes to a place of a line, in the stead of some characters."""

    line: int
    """From 0."""
    column: int
    """In characters."""
    num_replaced: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What happens to a file, first place first; the number of lines stays."""

    insertions: tuple[Insertion, ...]
    num_first: int
    """Insertions a person makes before the others follow: of a definition, and a first use where it shows how."""

    @property
    def first(self) -> tuple[Insertion, ...]:
        return self.insertions[: self.num_first]


def apply_insertions(lines: Sequence[str], insertions: Sequence[Insertion]) -> list[str]:
    """The lines of the file after them."""
    found = list(lines)
    for each in sorted(insertions, key=lambda each: (each.line, each.column), reverse=True):
        line = found[each.line]
        found[each.line] = line[: each.column] + each.text + line[each.column + each.num_replaced :]
    return found


def column_of(line: str, num_bytes: int) -> int:
    """Characters before a column of the parser, which counts bytes of UTF-8."""
    return num_bytes if line.isascii() else len(line.encode()[:num_bytes].decode())


def renames(source: str) -> Iterator[tuple[str, Change]]:
    """Names that can be changed everywhere, with changes whose new text is still the old name.

    Local variables within their function, and functions of the module within the file.
    """
    tree = parse(source)
    if tree is None:
        return
    lines, names = source.split("\n"), _Names(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (change := _rename_function(names, node, lines)) is not None:
            yield node.name, change
    for function in _functions(tree):
        local = _Names(function)
        for name in _local_names(local):
            change = _rename(lines, [_place(lines, each) for each in local.uses[name]], name)
            if change is not None:
                yield name, change


def renamed(change: Change, name: str) -> Change:
    """The same change with a new name."""
    insertions = tuple(
        Insertion(line=each.line, column=each.column, num_replaced=each.num_replaced, text=name)
        for each in change.insertions
    )
    return Change(insertions=insertions, num_first=change.num_first)


def _functions(tree: ast.AST) -> list[_Function]:
    """Those that are not within another one."""
    found: list[_Function] = []
    for node in ast.iter_child_nodes(tree):
        found += [node] if isinstance(node, _Function) else _functions(node)
    return found


class _Names:
    """What is written in a tree: plain names, and all others, of which changing one would be in doubt."""

    def __init__(self, tree: ast.AST) -> None:
        self.uses: dict[str, list[ast.Name]] = {}
        self.others: set[str] = set()
        self.defined: Counter[str] = Counter()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                self.uses.setdefault(node.id, []).append(node)
            elif isinstance(node, _Function | ast.ClassDef):
                self.defined[node.name] += 1
            else:
                self.others.update(_other_names(node))


def _rename_function(names: _Names, function: ast.FunctionDef, lines: Sequence[str]) -> Change | None:
    name = function.name
    uses = names.uses.get(name, [])
    is_bound = names.defined[name] != 1 or any(not isinstance(each.ctx, ast.Load) for each in uses)
    if is_bound or name in names.others:
        return None
    head = (function.lineno - 1, column_of(lines[function.lineno - 1], function.col_offset) + len("def "))
    return _rename(lines, [head, *(_place(lines, each) for each in uses)], name)


def _local_names(names: _Names) -> list[str]:
    """Names that are only variables of a function."""
    return [
        name
        for name, uses in names.uses.items()
        if len(name) > 1
        and name not in names.others
        and not names.defined[name]
        and any(isinstance(each.ctx, ast.Store) for each in uses)
    ]


def _other_names(node: ast.AST) -> Iterator[str]:
    """Those that one node writes."""
    for field in ("arg", "attr", "asname", "rest"):
        if (name := getattr(node, field, None)) is not None:
            yield str(name)
    if isinstance(node, ast.alias | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        yield (node.name or "").split(".")[0]
    if isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from node.value.replace(".", " ").split()
    if isinstance(node, ast.JoinedStr):  # Python 3.11 does not tell the places of names in them
        yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name))


def _place(lines: Sequence[str], node: ast.Name) -> tuple[int, int]:
    return node.lineno - 1, column_of(lines[node.lineno - 1], node.col_offset)


def _rename(lines: Sequence[str], places: Sequence[tuple[int, int]], name: str) -> Change | None:
    """None where it is on one line only, or not all places are where they should be."""
    ordered = sorted(set(places))
    if any(lines[line][column : column + len(name)] != name for line, column in ordered):
        return None
    num_first = sum(line == ordered[0][0] for line, _ in ordered)
    if len(ordered) == num_first:
        return None
    insertions = tuple(
        Insertion(line=line, column=column, num_replaced=len(name), text=name) for line, column in ordered
    )
    return Change(insertions=insertions, num_first=num_first)


def new_arguments(source: str, rng: np.random.Generator) -> Iterator[Change]:
    """One argument more for functions of the module that are called at least three times, passed by every call."""
    tree = parse(source)
    if tree is None:
        return
    lines, names = source.split("\n"), _Names(tree)
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or not _takes_another(node) or node.name in names.others:
            continue
        uses = names.uses.get(node.name, [])
        if len(uses) < LEAST_CALLS or names.defined[node.name] != 1:
            continue
        calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call) and each.func in uses]
        name, value = _ARGUMENTS[int(rng.integers(len(_ARGUMENTS)))]
        if len(calls) != len(uses) or name in source:
            continue
        found = [_at_definition(lines, node, name), *(_at_call(lines, each, f"{name}={value}") for each in calls)]
        insertions = sorted((each for each in found if each is not None), key=lambda each: (each.line, each.column))
        num_lines = len({each.line for each in insertions})
        if len(insertions) == len(found) == num_lines and insertions[0].text.endswith(name):
            yield Change(insertions=tuple(insertions), num_first=2)


def _takes_another(function: ast.FunctionDef) -> bool:
    given = function.args
    return bool(given.args) and not (
        given.vararg or given.kwarg or given.kwonlyargs or given.defaults or given.posonlyargs
    )


def _at_definition(lines: Sequence[str], function: ast.FunctionDef, name: str) -> Insertion:
    last = function.args.args[-1]
    line = (last.end_lineno or 1) - 1
    column = column_of(lines[line], last.end_col_offset or 0)
    return Insertion(line=line, column=column, num_replaced=0, text=f", {name}")


def _at_call(lines: Sequence[str], call: ast.Call, text: str) -> Insertion | None:
    """None where the call ends on a line of its own, or its only argument is a generator."""
    line = (call.end_lineno or 1) - 1
    column = column_of(lines[line], call.end_col_offset or 0) - 1
    before = lines[line][:column]
    if not before.strip() or any(isinstance(each, ast.GeneratorExp) for each in call.args):
        return None
    comma = "" if before.endswith(("(", ", ")) else " " if before.endswith(",") else ", "
    return Insertion(line=line, column=column, num_replaced=0, text=comma + text)
