"""Single-line infill suites: which line is taken out of which file.

The hole is one whole line with its indentation and its line end. Sets:

* HumanEval-Infilling, single line (Bavarian et al. 2022, arXiv:2207.14255): 1,033 lines of reference solutions.
* lines of held-out packages: drawn uniformly from all lines that are not blank, in files that parse.
"""

import ast
import gzip
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import numpy as np

from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.documents import Documents

T = TypeVar("T")


class LineKind(StrEnum):
    """What a line is. Prose is much harder to guess than code, so results are split by it."""

    CODE = "code"
    COMMENT = "comment"
    STRING = "string"
    """Inside a docstring or another string of several lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InfillItem:
    """One hole. ``prefix + middle + suffix`` is the original file."""

    item_id: str
    prefix: str
    middle: str
    """The reference, line end included where the file has one."""
    suffix: str
    kind: LineKind = LineKind.CODE


def subsample(items: Sequence[T], count: int | None, seed: int) -> list[T]:
    """``count`` items without repetition, in random order; all of them, in order, if None.

    The same seed gives a longer sample the same beginning.

    Raises:
        ConfigError: there are fewer items than that.
    """
    if count is None:
        return list(items)
    if not 1 <= count <= len(items):
        raise ConfigError(f"the number of items must lie in 1..{len(items)}, got {count}")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(items))
    return [items[index] for index in order[:count]]


def read_humaneval_single_line(path: Path) -> list[InfillItem]:
    """The tasks of ``HumanEval-SingleLineInfilling.jsonl.gz``; their unit tests are not read.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            tasks = [json.loads(line) for line in file]
        return [
            InfillItem(
                item_id=task["task_id"], prefix=task["prompt"], middle=task["canonical_solution"], suffix=task["suffix"]
            )
            for task in tasks
        ]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the tasks of {path}: {error}") from error


def sample_lines(documents: Documents, decode: Callable[[list[int]], str], count: int, seed: int) -> list[InfillItem]:
    """``count`` lines drawn uniformly, without repetition, from all non-blank lines of the files that parse.

    Args:
        documents: the split to draw from.
        decode: token ids to text, of the tokenizer the documents were written with.
        count: items to draw.
        seed: the same seed and documents give the same items, whatever model they are for.

    Raises:
        ConfigError: there are fewer lines than that.
    """
    texts = [decode(documents.document(index).tolist()) for index in range(documents.num_docs)]
    places = [(doc, line, kind) for doc, text in enumerate(texts) for line, kind in _lines(text)]
    return [
        _item(documents.doc_name(doc), texts[doc], line, kind) for doc, line, kind in subsample(places, count, seed)
    ]


def _item(name: str, text: str, line: int, kind: LineKind) -> InfillItem:
    lines = text.split("\n")
    start = sum(len(before) + 1 for before in lines[:line])
    stop = min(start + len(lines[line]) + 1, len(text))
    return InfillItem(
        item_id=f"{name}:{line + 1}", prefix=text[:start], middle=text[start:stop], suffix=text[stop:], kind=kind
    )


def _lines(text: str) -> list[tuple[int, LineKind]]:
    """Numbers (from 0) and kinds of the lines that are not blank; none if the file does not parse."""
    tree = parse(text)
    if tree is None:
        return []
    in_string: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and _is_string(node):
            in_string.update(range(node.lineno, node.end_lineno or node.lineno))
        if isinstance(node, ast.Expr) and _is_string(node.value):
            in_string.update(range(node.lineno - 1, node.end_lineno or node.lineno))
    kinds = []
    for number, line in enumerate(text.split("\n")):
        if line.strip():
            kind = LineKind.COMMENT if line.lstrip().startswith("#") else LineKind.CODE
            kinds.append((number, LineKind.STRING if number in in_string else kind))
    return kinds


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def parse(source: str) -> ast.Module | None:
    """The syntax tree, None if there is none. Nothing is compiled or run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes and the like are valid syntax
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a null byte; nesting too deep
        return None
