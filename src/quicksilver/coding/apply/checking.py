"""Check a merged file against its original and the snippet, knowing nothing of how it was merged.

Every line is the original's or the snippet's, in their order; the whole snippet is there; what is gone stood where the
snippet has code of its own; and the file is Python if it was before.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

from quicksilver.coding.apply.lines import is_blank, is_similar, key_of, split_lines
from quicksilver.coding.apply.markers import is_bare, is_marker
from quicksilver.coding.apply.python_code import tree_of
from quicksilver.errors import MergeError

_BRACKETS = {")": "(", "]": "[", "}": "{"}


def verify(original: str, snippet: str, merged: str) -> None:
    """Raise ``MergeError`` with the reason where ``merged`` is not ``original`` edited as ``snippet`` shows."""
    is_python = tree_of(original.removeprefix("\ufeff")) is not None
    if is_python and tree_of(merged.removeprefix("\ufeff")) is None:
        raise MergeError("the merged file is not valid Python any more")
    lines, before = _code(merged), _code(original)
    shown = _Shown(snippet, original)
    sources = _sources(lines, before, shown)
    _check_gone(lines, before, sources, shown)
    if not is_python and _is_balanced(original) and not _is_balanced(merged):
        raise MergeError("brackets of the merged file do not match any more")


def _code(text: str) -> list[str]:
    """Lines that are not blank, without the blanks around them."""
    return [line.strip() for line in split_lines(text) if not is_blank(line)]


class _Shown:
    """The snippet's lines of code, and where markers stand between them."""

    def __init__(self, snippet: str, original: str) -> None:
        known = {key_of(line) for line in split_lines(original)}
        self.lines: list[str] = []
        self.marked: set[int] = set()
        """Numbers of the lines that a marker stands before; ``len(lines)`` for one at the end."""
        self.optional: set[str] = set()
        """Imports, which may be there already, and the ellipses of bodies, which may be stubs or elided."""
        for line in split_lines(snippet):
            text = line.strip()
            if not text:
                continue
            if is_marker(line, known):
                self.marked.add(len(self.lines))
                if is_bare(line) and self.lines and self.lines[-1].endswith(":"):
                    self.optional.add(text)
                continue
            self.lines.append(text)
            if text.startswith(("import ", "from ")) or text.endswith(": ..."):
                self.optional.add(text)


def _sources(lines: Sequence[str], original: Sequence[str], shown: _Shown) -> list[int | None]:
    """For each merged line its number in the snippet, or None for a line of the original.

    Of all ways to read the file as the whole snippet with lines of the original around it, one that takes the lines of
    the original as early as they come.
    """
    wanted = [number for number, line in enumerate(shown.lines) if line not in shown.optional]
    texts = [shown.lines[number] for number in wanted]
    places = _Places(original)
    reached: list[dict[int, int]] = [{0: 0}]
    for line in lines:
        following: dict[int, int] = {}
        for taken, place in reached[-1].items():
            if taken < len(texts) and texts[taken] == line:
                following[taken + 1] = min(place, following.get(taken + 1, place))
            after = place if line in shown.optional else places.behind(line, place)
            if after is not None:
                following[taken] = min(after, following.get(taken, after))
        if not following:
            raise MergeError(f"the merged line {line!r} is neither the original's nor the snippet's in their order")
        reached.append(following)
    if len(texts) not in reached[-1]:
        missing = texts[max(reached[-1])]
        raise MergeError(f"the snippet's line {missing!r} is not in the merged file")
    return _traced(lines, shown, wanted, reached)


def _traced(
    lines: Sequence[str], shown: _Shown, wanted: Sequence[int], reached: Sequence[dict[int, int]]
) -> list[int | None]:
    """Which line of the snippet each merged line is, so that the fewest of the snippet's runs are torn apart."""
    states: list[dict[tuple[int, bool], tuple[int, bool]]] = []
    costs, never = {(0, False): 0}, len(lines) + 1
    for at, line in enumerate(lines):
        following: dict[tuple[int, bool], int] = {}
        came_from: dict[tuple[int, bool], tuple[int, bool]] = {}
        for (taken, is_inside), cost in costs.items():
            number = wanted[taken] if taken < len(wanted) else len(shown.lines)
            is_torn = number not in shown.marked and taken < len(wanted)
            steps = [(taken, False, is_torn and is_inside)] if taken in reached[at + 1] else []
            if taken < len(wanted) and shown.lines[number] == line:
                steps.append((taken + 1, True, is_torn and not is_inside))
            for count, is_shown, is_costly in steps:
                if cost + is_costly < following.get((count, is_shown), never):
                    following[count, is_shown] = cost + is_costly
                    came_from[count, is_shown] = (taken, is_inside)
        costs = following
        states.append(came_from)
    state = min(((len(wanted), inside) for inside in (False, True)), key=lambda end: costs.get(end, never))
    sources: list[int | None] = [None] * len(lines)
    for at in reversed(range(len(lines))):
        before = states[at][state]
        if state[1]:
            sources[at] = wanted[before[0]]
        elif lines[at] in shown.optional and lines[at] in shown.lines:
            sources[at] = shown.lines.index(lines[at])
        state = before
    return sources


class _Places:
    """Where each text stands in the original."""

    def __init__(self, original: Sequence[str]) -> None:
        self._places: dict[str, list[int]] = {}
        for place, line in enumerate(original):
            self._places.setdefault(line, []).append(place)

    def behind(self, line: str, place: int) -> int | None:
        """The place behind the first such line from ``place`` on."""
        return next((found + 1 for found in self._places.get(line, ()) if found >= place), None)


def _check_gone(lines: Sequence[str], original: Sequence[str], sources: Sequence[int | None], shown: _Shown) -> None:
    """What is gone was replaced by lines of the snippet, or stood beside one with no marker between."""
    matcher = SequenceMatcher(None, original, lines, autojunk=False)
    for operation, start, end, first, last in matcher.get_opcodes():
        if operation == "replace" and _is_replaced(original[start:end], lines, range(first, last), sources, shown):
            continue
        if operation in ("delete", "replace") and not _is_rewritten(first, sources, shown):
            raise MergeError(f"the original's line {original[start]!r} is gone, though the snippet does not touch it")


def _is_replaced(
    gone: Sequence[str], lines: Sequence[str], new: range, sources: Sequence[int | None], shown: _Shown
) -> bool:
    """Whether lines of the snippet took the place of others: a side without a marker, or a rewrite of one of them."""
    numbers = [source for place in new if (source := sources[place]) is not None]
    if not numbers:
        return False
    is_joined = numbers[0] not in shown.marked or numbers[-1] + 1 not in shown.marked
    return is_joined or any(is_similar(old, lines[place]) for old in gone for place in new)


def _is_rewritten(at: int, sources: Sequence[int | None], shown: _Shown) -> bool:
    """Whether the snippet shows the line before or behind a deletion, without a marker on the deletion's side."""
    before = sources[at - 1] if at else None
    behind = sources[at] if at < len(sources) else None
    return (before is not None and before + 1 not in shown.marked) or (
        behind is not None and behind not in shown.marked
    )


def _is_balanced(text: str) -> bool:
    stack: list[str] = []
    for letter in text:
        if letter in "([{":
            stack.append(letter)
        elif letter in _BRACKETS and (not stack or stack.pop() != _BRACKETS[letter]):
            return False
    return not stack
