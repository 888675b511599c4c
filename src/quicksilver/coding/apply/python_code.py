"""Python text as items: definitions, assignments and imports with their names, and lines for everything else."""

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from quicksilver.coding.apply.items import Item, Kind, line_item
from quicksilver.coding.apply.lines import Lines, indent_of, is_blank
from quicksilver.coding.apply.markers import is_bare, is_marker

DOCSTRING: Hashable = ("docstring",)
"""Key of a scope's docstring."""
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Parts:
    """A definition's pieces, as line ranges of its text that follow each other."""

    start: int
    """Of the comments directly above it."""
    decorators: int
    signature: int
    body: int
    """Equal to ``end`` where the body is on the signature's last line."""
    end: int


@dataclass(frozen=True, slots=True)
class PythonCode:
    """Parsed text; ``lines`` and the tree's line numbers agree."""

    lines: Lines
    tree: ast.Module

    def definitions(self, body: Sequence[ast.stmt]) -> dict[str, Definition]:
        return {node.name: node for node in body if isinstance(node, Definition)}


def parse(lines: Lines) -> PythonCode | None:
    """Code that is valid Python in lines that Python counts as we do; else None."""
    source = "".join(lines).removeprefix("\ufeff")
    if re.search(r"\r(?!\n)", source):
        return None
    tree = tree_of(source)
    return None if tree is None else PythonCode(lines, tree)


def tree_of(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def parse_snippet(lines: Lines) -> PythonCode | None:
    """A snippet's code, read with statements in place of its markers; the lines stay as they are."""
    inner = _inner_lines(lines)
    code = parse(tuple(_parsable(line, number in inner) for number, line in enumerate(lines)))
    return None if code is None else PythonCode(lines, code.tree)


def _parsable(line: str, is_inner: bool) -> str:
    if not is_marker(line) or (is_bare(line) and not is_inner):
        return line
    return "\n" if is_inner else f"{indent_of(line)}pass\n"


def _inner_lines(lines: Lines) -> set[int]:
    """Numbers of the lines that start within brackets or a string."""
    source = "".join("\n" if is_marker(line) else line for line in lines)
    inner: set[int] = set()
    depth, opened = 0, 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.start[0] != token.end[0]:
                inner.update(range(token.start[0], token.end[0]))
            if token.type != tokenize.OP or token.string not in "()[]{}":
                continue
            if token.string in "([{":
                opened = token.start[0] if not depth else opened
                depth += 1
            elif depth:
                depth -= 1
                if not depth:
                    inner.update(range(opened, token.end[0]))
    except (tokenize.TokenError, SyntaxError):
        return inner
    return inner


def items_of(code: PythonCode, body: Sequence[ast.stmt], start: int, end: int) -> list[Item]:
    """The items of a scope whose lines are ``start`` to ``end`` and whose statements are ``body``."""
    items: list[Item] = []
    for node in body:
        first, last = extent(code, node)
        kind, key = _kind_and_key(node, is_first=node is body[0])
        if kind is Kind.LINE or first < start or last > end:
            continue
        items.extend(line_item(code.lines[number], number) for number in range(start, first))
        items.append(Item(kind, key, code.lines[first:last], first))
        start = last
    items.extend(line_item(code.lines[number], number) for number in range(start, end))
    return items


def extent(code: PythonCode, node: ast.stmt) -> tuple[int, int]:
    """First line of a statement, and the line behind its last; of a definition with the comments that belong to it."""
    if isinstance(node, Definition):
        parts = parts_of(code, node)
        return parts.start, parts.end
    return node.lineno - 1, node.end_lineno or node.lineno


def _kind_and_key(node: ast.stmt, *, is_first: bool) -> tuple[Kind, Hashable]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            accessors = tuple(d.attr for d in node.decorator_list if isinstance(d, ast.Attribute) and _is_accessor(d))
            return Kind.DEFINITION, ("definition", node.name, accessors)
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return Kind.ASSIGNMENT, ("assignment", name)
        case ast.Import() | ast.ImportFrom():
            return Kind.IMPORT, import_key(node)
        case ast.Expr(value=ast.Constant(value=str())) if is_first:
            return Kind.ASSIGNMENT, DOCSTRING
    return Kind.LINE, None


def _is_accessor(decorator: ast.Attribute) -> bool:
    return decorator.attr in ("setter", "deleter", "getter")


def import_key(node: ast.Import | ast.ImportFrom) -> tuple[Hashable, ...]:
    module = (node.module, node.level) if isinstance(node, ast.ImportFrom) else None
    return ("import", module, imported_names(node))


def imported_names(node: ast.Import | ast.ImportFrom) -> frozenset[tuple[str, str | None]]:
    return frozenset((alias.name, alias.asname) for alias in node.names)


def parts_of(code: PythonCode, node: Definition) -> Parts:
    lines = code.lines
    signature = node.lineno - 1
    decorators = min([signature, *(decorator.lineno - 1 for decorator in node.decorator_list)])
    indent = indent_of(lines[decorators])
    start = decorators
    while start and lines[start - 1].startswith(indent + "#") and not is_marker(lines[start - 1]):
        start -= 1
    end = _end(lines, node.end_lineno or node.lineno, len(indent))
    body = first_line(node.body[0])
    if body <= signature or lines[body][: node.body[0].col_offset].strip():
        return Parts(start, decorators, signature, end, end)
    while body > signature + 1 and (is_blank(lines[body - 1]) or lines[body - 1].lstrip().startswith("#")):
        body -= 1
    return Parts(start, decorators, signature, body, end)


def docstring_end(node: Definition, parts: Parts) -> int:
    """The line behind a definition's docstring; the body's first line where it has none."""
    match node.body[0]:
        case ast.Expr(value=ast.Constant(value=str()), end_lineno=int(end)):
            return end
    return parts.body


def first_line(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, Definition) else []
    return min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1


def _end(lines: Lines, end: int, indent: int) -> int:
    """The end of a body with the comments that follow in it."""
    number = end
    while number < len(lines):
        line = lines[number]
        is_inside = len(indent_of(line)) > indent and line.lstrip().startswith("#") and not is_marker(line)
        if not is_blank(line) and not is_inside:
            break
        number += 1
        if is_inside:
            end = number
    return end


def header_end(code: PythonCode) -> int:
    """The line behind the imports at a module's start, or behind its docstring and first comments."""
    end = 0
    for node in code.tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            end = node.end_lineno or node.lineno
        elif isinstance(node, Definition):
            break
    if end or not code.tree.body:
        return end
    first = code.tree.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first.end_lineno or first.lineno
    while end < len(code.lines) and code.lines[end].startswith("#"):
        end += 1
    return end if end < first_line(first) + 1 else 0
