"""Lazy snippets: what a careful writer shows of an edit, with a comment wherever the file stays as it was."""

import ast
import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Self

MARKERS = (
    "# ... existing code ...",
    "# ...",
    "# ... rest of the code unchanged ...",
    "# … unchanged …",
)


@dataclass(frozen=True)
class Edit:
    """Lines of a file before and after, and the ranges (start, end, new start, new end) that differ."""

    before: list[str]
    after: list[str]
    hunks: list[tuple[int, int, int, int]]

    @classmethod
    def of(cls, before: Sequence[str], after: Sequence[str]) -> Self:
        """The edit between two states of a file."""
        places = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        return cls(list(before), list(after), [(a, b, c, d) for kind, a, b, c, d in places if kind != "equal"])


def lazy_snippet(rng: Random, edit: Edit) -> str | None:
    """The hunks with an unmistakable unchanged line on both sides, under the heads of their definitions."""
    shown = _shown(edit)
    if shown is None:
        return None
    owners = _owners(edit.after, shown)
    marker = rng.choice(MARKERS)
    lines: list[str] = []
    place = 0
    while place < len(edit.after):
        if place in shown:
            lines.append(edit.after[place])
            place += 1
            continue
        end = place
        while end < len(edit.after) and end not in shown and owners[end] == owners[place]:
            end += 1
        hidden = [line for line in edit.after[place:end] if line.strip()]
        if hidden:
            indent = min((line[: len(line) - len(line.lstrip())] for line in hidden), key=len)
            lines += [""] * rng.randint(0, 1) + [indent + marker] + [""] * rng.randint(0, 1)
        else:
            lines += edit.after[place:end]
        place = end
    return "\n".join(lines)


def _shown(edit: Edit) -> set[int] | None:
    """Numbers of the edited file's lines that the snippet shows; None without an anchor on both sides of every hunk."""
    counts = Counter(edit.before), Counter(edit.after)

    def is_anchor(place: int) -> bool:
        line = edit.after[place]
        return counts[0][line] == counts[1][line] == 1 and sum(map(str.isalnum, line)) >= 6

    changed = {place for _, _, start, end in edit.hunks for place in range(start, end)}
    shown = set(changed)
    for _, _, start, end in edit.hunks:
        for step, place in ((-1, start - 1), (1, end)):
            while 0 <= place < len(edit.after):
                shown.add(place)
                if is_anchor(place) and place not in changed:
                    break
                place += step
            else:
                return None
    tree = ast.parse("\n".join(edit.after))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            if shown & set(range(first, node.end_lineno or 0)):
                shown |= set(range(first, max(node.body[0].lineno - 1, node.lineno)))
    return shown


def _owners(lines: list[str], shown: set[int]) -> list[int]:
    """For each line the innermost definition of which something is shown."""
    owners = [-1] * len(lines)
    for number, node in enumerate(ast.walk(ast.parse("\n".join(lines)))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            body = range(node.body[0].lineno - 1, node.end_lineno or 0)
            if shown & set(range(node.lineno - 1, node.end_lineno or 0)):
                owners[body.start : body.stop] = [number] * len(body)
    return owners
