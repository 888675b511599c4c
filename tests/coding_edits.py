"""Random Python modules, and random edits of them."""

import ast
import itertools
from random import Random

from quicksilver.evaluation.lazy_snippets import Edit

_ABOVE = "# About the next one."
_LASTING = (_ABOVE, "class ")
_WORDS = ("parse", "total", "size", "render", "fetch", "value", "index", "limit", "owner", "cache", "token", "group")


def random_module(rng: Random) -> str:
    """Imports, constants, functions and classes with methods; valid, of 20 to 100 lines."""
    names = _names(rng)
    lines = [
        '"""Generated."""',
        "",
        "import os",
        "from sys import argv, path",
        "",
        f"{next(names).upper()} = [1, 2]",
        "",
    ]
    for _ in range(rng.randint(2, 5)):
        if rng.random() < 0.4:
            lines += ["", f"class {next(names).title()}:", '    """A class."""', ""]
            for _ in range(rng.randint(1, 3)):
                lines += [f"    {line}".rstrip() for line in _function(rng, names, "self, ")] + [""]
        else:
            lines += ["", *_function(rng, names, ""), ""]
    return "\n".join(lines).rstrip() + "\n"


def _names(rng: Random):
    for number in itertools.count():
        yield f"{rng.choice(_WORDS)}_{rng.choice(_WORDS)}_{number}"


def _function(rng: Random, names, receiver: str) -> list[str]:
    name, argument = next(names), next(names)
    lines = [_ABOVE] * rng.randint(0, 1) + ["@staticmethod"] * rng.choice([0, 0, 0, 1])
    lines += [f"def {name}({receiver}{argument}):"]
    for _ in range(rng.randint(1, 5)):
        lines += _statement(rng, names, argument, 1)
    return [*lines, f"    return {argument}"]


def _statement(rng: Random, names, argument: str, depth: int) -> list[str]:
    indent, name = "    " * depth, next(names)
    kind = rng.randrange(7 if depth < 3 else 4)
    if kind == 0:
        return [f"{indent}{name} = {argument} + {rng.randint(0, 9)}"]
    if kind == 1:
        return [f"{indent}print({argument})"]
    if kind == 2:
        return [f"{indent}# {name} matters", ""]
    if kind == 3:
        return [
            f"{indent}{name} = dict(",
            f"{indent}    a={argument},",
            f"{indent}    b={rng.randint(0, 9)},",
            f"{indent})",
        ]
    head = rng.choice([f"if {name}:", f"for {name} in {argument}:", f"while {argument}:"])
    inner = _statement(rng, names, argument, depth + 1) + _statement(rng, names, argument, depth + 1)
    tail = [f"{indent}else:", f"{indent}    pass"] if rng.random() < 0.3 else []
    return [f"{indent}{head}", *inner, f"{indent}    continue_{name} = 1", *tail]


def random_edit(rng: Random, source: str, num_hunks: int = 1) -> Edit | None:
    """Insert, change or delete a few lines in ``num_hunks`` places; None if no try stays valid Python."""
    before = source.split("\n")
    for _ in range(20):
        after, hunks, offset, start = list(before), [], 0, 0
        places = sorted(rng.sample(range(len(before) - 1), min(num_hunks, len(before) - 1)))
        for place in places:
            if place < start:
                continue
            end, new = _change(rng, before, place)
            after[place + offset : end + offset] = new
            hunks.append((place, end, place + offset, place + offset + len(new)))
            offset += len(new) - (end - place)
            start = end + 1
        # Two edits no lazy snippet can say: a comment above a definition goes, or a class's head but not its methods.
        is_sayable = all(
            sum(text in line for line in after) == sum(text in line for line in before) for text in _LASTING
        )
        if after != before and is_sayable and _is_valid("\n".join(after)):
            return Edit(before, after, hunks)
    return None


def _change(rng: Random, lines: list[str], place: int) -> tuple[int, list[str]]:
    line = lines[place]
    indent = line[: len(line) - len(line.lstrip())]
    new = [f"{indent}brand_new_{rng.randrange(10**6)} = {rng.randrange(10)}" for _ in range(rng.randint(1, 3))]
    kind = rng.randrange(4)
    if kind == 0:
        return place, new
    if kind == 1:
        return min(place + rng.randint(1, 3), len(lines) - 1), []
    if kind == 2:
        return place + 1, [line.replace("(", "(1, ", 1) if "(" in line else line + "  # changed"]
    return min(place + rng.randint(1, 3), len(lines) - 1), new


def _is_valid(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True
