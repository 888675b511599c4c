"""Whether a text is Python. Nothing is run."""

import ast
import warnings


def parse(source: str) -> ast.Module | None:
    """The syntax tree, None if there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes and the like are valid syntax
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a null byte; nesting too deep
        return None


def compiles(tree: ast.Module) -> bool:
    """Whether a tree becomes byte code too: no ``return`` outside functions, no name both global and a parameter."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(tree, "<answer>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def is_plain(source: str) -> bool:
    """Whether a file parses and its lines are what the parser counts as lines."""
    return "\r" not in source and "\f" not in source and parse(source) is not None


def line_starts(text: str) -> list[int]:
    """Where each line begins, and at last where one more would."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts


def characters(line: str, num_bytes: int) -> int:
    """Columns of the parser in characters: it counts bytes of UTF-8."""
    return num_bytes if line.isascii() else len(line.encode()[:num_bytes].decode())


class SourceMap:
    """Where nodes of a plain file's syntax tree lie in its text, in characters."""

    def __init__(self, text: str) -> None:
        """Find the lines."""
        self.text = text
        self._lines, self._starts = text.split("\n"), line_starts(text)

    def span(self, node: ast.expr | ast.stmt | ast.arg) -> tuple[int, int]:
        """Where a node begins, and the place behind it."""
        return self._place(node.lineno, node.col_offset), self._place(node.end_lineno or 0, node.end_col_offset or 0)

    def _place(self, line: int, column: int) -> int:
        return self._starts[line - 1] + characters(self._lines[line - 1], column)
