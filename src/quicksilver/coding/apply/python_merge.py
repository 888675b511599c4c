"""Merge a lazy snippet of Python by the structure of both texts."""

import ast
from collections.abc import Sequence
from dataclasses import replace

from quicksilver.coding.apply.by_name import merge_by_name
from quicksilver.coding.apply.items import Element, Item, Kind, Marker, line_item
from quicksilver.coding.apply.lines import Lines, in_original_bytes, indent_of, is_blank, key_of
from quicksilver.coding.apply.markers import is_marker
from quicksilver.coding.apply.pieces import Piece, choose, likeliest
from quicksilver.coding.apply.python_code import (
    DOCSTRING,
    Definition,
    Parts,
    PythonCode,
    docstring_end,
    header_end,
    import_key,
    imported_names,
    items_of,
    parse,
    parse_snippet,
    parts_of,
)
from quicksilver.coding.apply.scopes import ElisionError, Scope, merge_elements

_MAYBE_WHOLE = 0.75
"""A snippet without markers of which so many names are the original's may show all of it, and drop the others."""


def merge_python(original: Lines, snippet: Lines, newline: str) -> list[Piece] | None:
    """The merged file; None where one of the texts is not Python, so that lines must do.

    Raises:
        MergeError: the snippet does not say what becomes of the file.
    """
    code = parse(original)
    shown = parse_snippet(snippet) or parse_snippet(_dedented(snippet))
    if code is None or shown is None:
        return None
    owner = _owner(code, shown)
    if owner is not None:
        return _PythonMerge(code, shown, newline).method_of(owner)
    hoisted = _with_imports(code, shown, newline)
    return _PythonMerge(*hoisted, newline).module()


def _dedented(lines: Lines) -> Lines:
    indent = min((indent_of(line) for line in lines if not is_blank(line)), key=len, default="")
    return tuple(line.removeprefix(indent) for line in lines)


def _owner(code: PythonCode, shown: PythonCode) -> ast.ClassDef | None:
    """The only class that has what a snippet without its class defines, if the file itself does not have it."""
    names = set(code.definitions(shown.tree.body))
    if not names or names & set(code.definitions(code.tree.body)):
        return None
    classes = [node for node in code.tree.body if isinstance(node, ast.ClassDef)]
    owners = [node for node in classes if names & set(code.definitions(node.body))]
    return owners[0] if len(owners) == 1 else None


def _with_imports(code: PythonCode, shown: PythonCode, newline: str) -> tuple[PythonCode, PythonCode]:
    """The file with the new imports at the snippet's head behind its own, and the snippet without them.

    Imports that stand beside something of the file stay there: that is their place.
    """
    known = {item.key for item in items_of(code, code.tree.body, 0, len(code.lines))}
    items = items_of(shown, shown.tree.body, 0, len(shown.lines))
    count = next((n for n, item in enumerate(items) if not item.is_blank and not _is_new_import(item, known, code)), 0)
    head, follower = items[:count], items[count] if count < len(items) else None
    is_beside = follower is not None and follower.key in known and follower.kind is not Kind.DEFINITION
    if not any(item.kind is Kind.IMPORT for item in head) or is_beside:
        return code, shown
    place = header_end(code)
    added = tuple(line for item in head if item.kind is Kind.IMPORT for line in item.lines)
    before, after = code.lines[:place], code.lines[place:]
    if before and not before[-1].endswith("\n"):
        before = (*before[:-1], before[-1] + newline)
    with_imports = parse((*before, *added, *after))
    rest = parse_snippet(shown.lines[items[count].start :] if follower else ())
    return (code, shown) if with_imports is None or rest is None else (with_imports, rest)


def _is_new_import(item: Item, known: set, code: PythonCode) -> bool:
    return item.kind is Kind.IMPORT and item.key not in known and _namesake(item, code.tree.body) is None


def _namesake(item: Item, body: Sequence[ast.stmt]) -> ast.Import | ast.ImportFrom | None:
    """The statement that imports more or less than ``item`` from the same module."""
    node = ast.parse("".join(item.lines).strip()).body[0]
    for other in body:
        if isinstance(node, ast.ImportFrom) and isinstance(other, ast.ImportFrom):
            names, others = imported_names(node), imported_names(other)
            if (node.module, node.level) == (other.module, other.level) and (names <= others or others <= names):
                return other
    return None


class _PythonMerge:
    def __init__(self, code: PythonCode, shown: PythonCode, newline: str) -> None:
        self.code = code
        self.shown = shown
        self.newline = newline
        self._has_markers = any(map(is_marker, shown.lines))
        self._nodes = _nodes_by_start(code)
        self._shown_nodes = _nodes_by_start(shown)

    def module(self) -> list[Piece]:
        whole = (0, len(self.code.lines)), (0, len(self.shown.lines))
        return self._scope(self.code.tree.body, self.shown.tree.body, *whole, is_open=True)

    def method_of(self, owner: ast.ClassDef) -> list[Piece]:
        """Merge a snippet that shows members of a class without the class."""
        parts = parts_of(self.code, owner)
        indent = indent_of(self.code.lines[owner.body[0].lineno - 1])
        self.shown = replace(self.shown, lines=tuple(_indented(line, indent) for line in self.shown.lines))
        inner = self._scope(
            owner.body,
            self.shown.tree.body,
            (parts.body, parts.end),
            (0, len(self.shown.lines)),
            is_open=True,
            is_part=True,
        )
        return [*self.code.lines[: parts.body], *inner, *self.code.lines[parts.end :]]

    def _scope(
        self,
        body: Sequence[ast.stmt],
        shown_body: Sequence[ast.stmt],
        lines: tuple[int, int],
        shown_lines: tuple[int, int],
        *,
        is_open: bool,
        is_part: bool = False,
    ) -> list[Piece]:
        original = items_of(self.code, body, *lines)
        known = {key_of(line) for line in self.code.lines[slice(*lines)]}
        items = [self._renamed(item, body) for item in items_of(self.shown, shown_body, *shown_lines)]
        elements: list[Element] = [
            Marker() if item.kind is Kind.LINE and is_marker(item.lines[0], known) else item for item in items
        ]
        if any(isinstance(element, Marker) for element in elements):
            return merge_elements(original, elements, Scope(is_open=is_open, newline=self.newline), self._item)
        if is_part:
            return merge_by_name(original, items, self.newline, self._item)
        by_name = merge_by_name(original, items, self.newline, self._item)
        keys = {item.key for item in items}
        is_from_start = next((item.key in keys for item in original if not item.is_blank), False)
        share = _shown_share(original, keys) if is_from_start or not is_open else 0.0
        if share < _MAYBE_WHOLE:
            return by_name
        whole = merge_elements(original, items, Scope(is_open=False, newline=self.newline), self._item)
        if likeliest(whole) == likeliest(by_name):
            return whole
        options = [likeliest(whole), likeliest(by_name)]
        return choose(options if share == 1 and is_from_start else options[::-1])

    def _renamed(self, item: Item, body: Sequence[ast.stmt]) -> Item:
        """An import under the key of the original's import of more or fewer names, which it replaces."""
        namesake = _namesake(item, body) if item.kind is Kind.IMPORT else None
        return replace(item, key=import_key(namesake)) if namesake else item

    def _item(self, original: Item, shown: Item) -> list[Piece]:
        """What becomes of an item that the snippet shows."""
        replaced = in_original_bytes(shown.lines, original.lines)
        if original.kind is Kind.LINE:
            return list(original.lines)
        if original.kind is Kind.IMPORT:
            return _imports(original, replaced)
        node, shown_node = self._nodes[original.start], self._shown_nodes[shown.start]
        if isinstance(node, Definition) and isinstance(shown_node, Definition):
            return self._definition(node, shown_node)
        known = {key_of(line) for line in original.lines}
        if not any(is_marker(line, known) for line in shown.lines):
            return list(replaced)
        return self._by_lines(original.lines, shown.lines)

    def _definition(self, node: Definition, shown_node: Definition) -> list[Piece]:
        parts, shown = parts_of(self.code, node), parts_of(self.shown, shown_node)
        original = self.code.lines[parts.start : parts.end]
        lines = self.shown.lines[shown.start : shown.end]
        known = {key_of(line) for line in original}
        has_markers = any(is_marker(line, known) for line in lines)
        if shown.body == shown.end and _is_elided(shown_node) and not _is_elided(node):
            return self._elided(node, shown_node, original)
        head = self._head(parts, shown)
        if isinstance(node, ast.ClassDef) and isinstance(shown_node, ast.ClassDef) and shown.body < shown.end:
            if parts.body == parts.end:
                return [*head, *self.shown.lines[shown.body : shown.end]]
            spans = (parts.body, parts.end), (shown.body, shown.end)
            return [*head, *self._scope(node.body, shown_node.body, *spans, is_open=False)]
        if not has_markers:
            rest = self.code.lines[parts.signature : parts.end], self.shown.lines[shown.signature : shown.end]
            return [*head[: len(head) - (shown.body - shown.signature)], *in_original_bytes(rest[1], rest[0])]
        if parts.body == parts.end or shown.body == shown.end:
            return self._by_lines(original, lines)
        start, shown_start = docstring_end(node, parts), docstring_end(shown_node, shown)
        docstring = self.shown.lines[shown.body : shown_start]
        if start == parts.body or shown_start == shown.body or any(is_marker(line, known) for line in docstring):
            start, shown_start, docstring = parts.body, shown.body, ()
        return [
            *head,
            *in_original_bytes(docstring, self.code.lines[parts.body : start]),
            *self._by_lines(self.code.lines[start : parts.end], self.shown.lines[shown_start : shown.end]),
        ]

    def _head(self, parts: Parts, shown: Parts) -> list[Piece]:
        """Comments above, decorators and signature: the original's comments and decorators stay if none are shown."""
        lines, shown_lines = self.code.lines, self.shown.lines
        above, kept_above = shown_lines[shown.start : shown.decorators], lines[parts.start : parts.decorators]
        decorators, kept = shown_lines[shown.decorators : shown.signature], lines[parts.decorators : parts.signature]
        signature = in_original_bytes(shown_lines[shown.signature : shown.body], lines[parts.signature : parts.body])
        is_sure = self._is_behind_marker(shown.start)
        return [
            *_kept_or(above, kept_above, is_sure=is_sure or not self._has_markers),
            *_kept_or(decorators, kept, is_sure=is_sure and not above),
            *signature,
        ]

    def _is_behind_marker(self, number: int) -> bool:
        """Whether the snippet starts here, or the last line of code before is a marker."""
        before = next((line for line in reversed(self.shown.lines[:number]) if not is_blank(line)), None)
        return before is None or is_marker(before)

    def _elided(self, node: Definition, shown: Definition, original: Lines) -> list[Piece]:
        """``def f(x): ...`` for a function with a body: the body stays."""
        if isinstance(node, ast.ClassDef) != isinstance(shown, ast.ClassDef) or _interface(node) != _interface(shown):
            raise ElisionError(
                f"{shown.name} is shown without its body but with another signature; show its body or a marker"
            )
        return list(original)

    def _by_lines(self, original: Lines, shown: Lines) -> list[Piece]:
        known = {key_of(line) for line in original}
        elements = [
            Marker() if is_marker(line, known) else line_item(line, number) for number, line in enumerate(shown)
        ]
        items = [line_item(line, number) for number, line in enumerate(original)]
        return merge_elements(items, elements, Scope(is_open=False, newline=self.newline), self._item)


def _nodes_by_start(code: PythonCode) -> dict[int, ast.stmt]:
    """Statements of every module and class body by the first line of their items."""
    found: dict[int, ast.stmt] = {}
    bodies = [code.tree.body]
    while bodies:
        for node in bodies.pop():
            start = parts_of(code, node).start if isinstance(node, Definition) else node.lineno - 1
            found.setdefault(start, node)
            if isinstance(node, ast.ClassDef):
                bodies.append(node.body)
    return found


def _shown_share(original: Sequence[Item], keys: set) -> float:
    """The share of the original's names that the snippet shows; 0 where it has none."""
    kinds = (Kind.DEFINITION, Kind.ASSIGNMENT)
    names = [item.key for item in original if item.kind in kinds and item.key != DOCSTRING]
    return sum(name in keys for name in names) / len(names) if names else 0.0


def _imports(original: Item, replaced: Lines) -> list[Piece]:
    """The snippet's import; where it lacks names of the original's, they may only have been left out."""
    nodes = [ast.parse("".join(lines).strip()).body[0] for lines in (original.lines, replaced)]
    names = [imported_names(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return choose([original.lines, replaced]) if names[1] < names[0] else list(replaced)


def _is_elided(node: Definition) -> bool:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=value))]:
            return value is ...
    return False


def _interface(node: Definition) -> str:
    """The signature as text, without decorators and body."""
    if isinstance(node, ast.ClassDef):
        return ast.dump(ast.Tuple(elts=node.bases, ctx=ast.Load()))
    return ast.dump(node.args) + (ast.dump(node.returns) if node.returns else "")


def _kept_or(shown: Lines, kept: Lines, *, is_sure: bool) -> list[Piece]:
    """The comments or decorators shown; where none are, those of the original, which may also be meant to go."""
    if shown or not kept:
        return list(in_original_bytes(shown, kept))
    return list(kept) if is_sure else choose([kept, ()])


def _indented(line: str, indent: str) -> str:
    return line if is_blank(line) else indent + line
