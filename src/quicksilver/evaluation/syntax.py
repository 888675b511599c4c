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
