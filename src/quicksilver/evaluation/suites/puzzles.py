"""4x4 sudoku and countdown with three numbers, the sets of d1 (Zhao et al. 2025, arXiv:2504.12216).

One worked example shows the form. Any right solution counts, not only the set's. ``cell_accuracy`` is the share of
empty sudoku cells with the set's digit, over the cells of all puzzles.
"""

import ast
import csv
import itertools
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

from quicksilver.errors import InputError
from quicksilver.evaluation.data import file_hash
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.suite import Mark
from quicksilver.evaluation.suites.prompting import PromptItem, PromptSuite

SUDOKU = "d1_reasoning/4x4_test_sudoku.csv"
COUNTDOWN = "d1_reasoning/countdown_cd3_test.jsonl"
_SUDOKU_HEAD = """Solve the sudoku: every row, column and 2x2 box holds 1, 2, 3 and 4 once. 0 is an empty cell.

puzzle: 1200041020030301
solution: 1234341221434321

"""
_COUNTDOWN_HEAD = """Reach the target with every number once, and + - * / and parentheses.

numbers: 2, 3, 7
target: 13
expression: 2 * 3 + 7

"""
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = "+-*/"
MOST_CHARS = 200
"""Of an expression that is read: three numbers need far less."""


def sudoku(path: Path, *, count: int | None, seed: int) -> PromptSuite:
    """The suite ``sudoku``.

    Args:
        path: of ``SUDOKU``.
        count: random puzzles; None: all 500, in order.
        seed: of the sample.

    Raises:
        InputError: the file is missing or damaged.
        ConfigError: there are fewer puzzles than that.
    """
    return PromptSuite(
        name="sudoku",
        headline="solve_rate",
        prompts=tuple(subsample(_read(path, _read_sudoku), count, seed)),
        rule=judge_sudoku,
        max_tokens=32,
        stop=("\n",),
        source={"data_sha256": file_hash(path), "items_seed": seed},
    )


def countdown(path: Path, *, count: int | None, seed: int) -> PromptSuite:
    """The suite ``countdown``, of 256 tasks; see ``sudoku``."""
    return PromptSuite(
        name="countdown",
        headline="solve_rate",
        prompts=tuple(subsample(_read(path, _read_countdown), count, seed)),
        rule=judge_countdown,
        max_tokens=32,
        stop=("\n",),
        source={"data_sha256": file_hash(path), "items_seed": seed},
    )


def _read(path: Path, read: Callable[[str], list[PromptItem]]) -> list[PromptItem]:
    try:
        return read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the puzzles of {path}: {error}") from error


def _read_sudoku(text: str) -> list[PromptItem]:
    rows = [(row["Puzzle"], row["Solution"]) for row in csv.DictReader(text.splitlines())]
    if any(re.fullmatch("[0-4]{16}", puzzle) is None or not _solves(puzzle, solution) for puzzle, solution in rows):
        raise ValueError("a row is no puzzle with its solution")
    return [
        PromptItem(
            item_id=str(number),
            prompt=f"{_SUDOKU_HEAD}puzzle: {puzzle}\nsolution:",
            reference=f" {solution}",
            given={"puzzle": puzzle, "solution": solution},
        )
        for number, (puzzle, solution) in enumerate(rows)
    ]


def _solves(puzzle: str, solution: str) -> bool:
    rows = [solution[at : at + 4] for at in range(0, 16, 4)]
    columns = ["".join(row[at] for row in rows) for at in range(4)] if len(solution) == 16 else []
    boxes = [rows[top][left : left + 2] + rows[top + 1][left : left + 2] for top in (0, 2) for left in (0, 2)]
    is_full = all(sorted(part) == ["1", "2", "3", "4"] for part in (*rows, *columns, *boxes))
    return bool(columns) and is_full and all(clue in ("0", digit) for clue, digit in zip(puzzle, solution, strict=True))


def judge_sudoku(item: PromptItem, text: str) -> Mark:
    """The first 16 digits in a row, white space between them left out, are the answer."""
    puzzle, wanted = str(item.given["puzzle"]), str(item.given["solution"])
    found = re.search(r"[1-4](?:\s*[1-4]){15}", text)
    digits = re.sub(r"\s", "", found[0]) if found else ""
    open_cells = [place for place, clue in enumerate(puzzle) if clue == "0"]
    num_right = sum(digits[place : place + 1] == wanted[place] for place in open_cells)
    return Mark(
        values={"solve_rate": float(bool(digits) and _solves(puzzle, digits))},
        ratios={"cell_accuracy": (float(num_right), float(len(open_cells)))},
    )


def _read_countdown(text: str) -> list[PromptItem]:
    items = []
    for number, line in enumerate(text.splitlines()):
        task = json.loads(line)
        numbers, target = [int(each) for each in task["input"].split(",")], int(task["output"])
        solution = solve(numbers, target)
        if solution is None:
            raise ValueError(f"line {number + 1} cannot be solved")
        named = ", ".join(map(str, numbers))
        items.append(
            PromptItem(
                item_id=str(number),
                prompt=f"{_COUNTDOWN_HEAD}numbers: {named}\ntarget: {target}\nexpression:",
                reference=f" {solution}",
                given={"numbers": numbers, "target": target},
            )
        )
    return items


def solve(numbers: Sequence[int], target: int) -> str | None:
    """An expression of three numbers, each once; None if there is none."""
    for (a, b, c), first, second in itertools.product(itertools.permutations(numbers), _SIGNS, _SIGNS):
        for expression in (f"({a} {first} {b}) {second} {c}", f"{a} {first} ({b} {second} {c})"):
            if _value(ast.parse(expression, mode="eval").body) == target:
                return expression
    return None


def judge_countdown(item: PromptItem, text: str) -> Mark:
    """What stands before an equals sign is the answer."""
    expression = text.strip().split("\n", 1)[0].split("=", 1)[0].strip()
    try:
        tree = ast.parse(expression[:MOST_CHARS], mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Mark(values={"solve_rate": 0.0, "parse_rate": 0.0})
    value = _value(tree)
    used = Counter(each.value for each in ast.walk(tree) if isinstance(each, ast.Constant))
    is_solved = value == item.given["target"] and used == Counter(cast(list[int], item.given["numbers"]))
    return Mark(values={"solve_rate": float(is_solved), "parse_rate": float(value is not None)})


def _value(node: ast.expr) -> Fraction | None:
    """Of an expression of integers and the four operators; None if it is another, or divides by nothing."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value) if type(node.value) is int else None
    if not isinstance(node, ast.BinOp) or type(node.op) not in _OPERATORS:
        return None
    left, right = _value(node.left), _value(node.right)
    if left is None or right is None or (isinstance(node.op, ast.Div) and right == 0):
        return None
    return _OPERATORS[type(node.op)](left, right)
