"""Merge a lazy snippet into its file, by structure where it is Python and by lines elsewhere."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import overload

from quicksilver.coding.apply.checking import verify
from quicksilver.coding.apply.items import Element, Item, Marker, line_item, line_items
from quicksilver.coding.apply.lines import (
    Lines,
    in_original_bytes,
    is_blank,
    key_of,
    newline_of,
    split_lines,
    with_newline,
)
from quicksilver.coding.apply.markers import is_marker
from quicksilver.coding.apply.pieces import Hole, Merge, Piece, assembled, choose, likeliest
from quicksilver.coding.apply.python_merge import merge_python
from quicksilver.coding.apply.scopes import ElisionError, Scope, merge_elements
from quicksilver.errors import MergeError

_DEFINITION = re.compile(r"\s*(?:async\s+def|def|class)\b")
_MIN_LETTERS = 6
"""Shorter lines stand twice in a file by chance."""
_WHOLE_FILE_SHARE = 0.75
"""A snippet without markers that shares so much of its lines with the file may be the whole file."""


def merge(original: str, snippet: str) -> Merge:
    """The file with the snippet's edit in it, verified; lines outside the edit keep every byte.

    Args:
        original: the whole file.
        snippet: the parts that change, with markers such as ``# ... existing code ...`` for what stays. Definitions
            without any markers replace their namesakes.

    Raises:
        MergeError: the snippet does not determine the result up to a few candidates, or the result fails ``verify``.
    """
    newline = newline_of(original if "\n" in original else snippet)
    lines = split_lines(original)
    shown = split_lines(with_newline(_trimmed(snippet), newline))
    if not any(not is_blank(line) for line in shown):
        raise MergeError("the snippet is empty; a merge needs the code that changes")
    if not any(not is_blank(line) for line in lines):
        return _new_file(snippet, newline)
    task = _Task(original, snippet, lines, shown, newline)
    try:
        by_structure = task.checked(merge_python(lines, shown, newline))
    except ElisionError:
        raise
    except MergeError as fault:
        return task.by_lines_after(fault)
    if by_structure is None:
        return task.checked(_merge_lines(lines, shown, newline))
    return by_structure if not task.num_doubled(by_structure) else task.compared(by_structure)


def _trimmed(snippet: str) -> str:
    """A snippet without the blank lines around it."""
    lines = split_lines(snippet)
    places = [number for number, line in enumerate(lines) if not is_blank(line)]
    return "".join(lines[places[0] : places[-1] + 1]) if places else ""


def _new_file(snippet: str, newline: str) -> Merge:
    if any(map(is_marker, split_lines(snippet))):
        raise MergeError("the original is empty, so the snippet's markers stand for nothing")
    return Merge(with_newline(snippet, newline))


def _merge_lines(original: Lines, snippet: Lines, newline: str) -> list[Piece]:
    known = {key_of(line) for line in original}
    elements: list[Element] = [
        Marker() if is_marker(line, known) else line_item(line, number) for number, line in enumerate(snippet)
    ]
    items = line_items(original)
    has_markers = any(isinstance(element, Marker) for element in elements)
    if not has_markers and not any(item.key in known for item in line_items(snippet) if not item.is_blank):
        raise MergeError("no line of the snippet is in the original; show an unchanged line beside what changes")
    pieces = merge_elements(items, elements, Scope(is_open=True, newline=newline), _keep)
    share = SequenceMatcher(
        None, [key_of(line) for line in original], [key_of(line) for line in snippet], autojunk=False
    ).ratio()
    if has_markers or share < _WHOLE_FILE_SHARE:
        return pieces
    return choose([likeliest(pieces), in_original_bytes(snippet, original)])


def _keep(original: Item, shown: Item) -> list[Piece]:
    del shown
    return list(original.lines)


@dataclass(frozen=True, slots=True)
class _Task:
    """A merge by structure, checked and, where in doubt, compared with one by lines alone."""

    original: str
    snippet: str
    lines: Lines
    shown: Lines
    newline: str

    @overload
    def checked(self, pieces: list[Piece]) -> Merge: ...
    @overload
    def checked(self, pieces: list[Piece] | None) -> Merge | None: ...
    def checked(self, pieces: list[Piece] | None) -> Merge | None:
        if pieces is None:
            return None
        return _checked(assembled(pieces, self.newline, self.original.endswith("\n")), self.original, self.snippet)

    def by_lines_after(self, fault: MergeError) -> Merge:
        """The merge by lines where structure failed, if nothing stands twice in it.

        Definitions without a marker go by their names or nowhere.
        """
        known = {key_of(line) for line in self.lines}
        has_markers = any(is_marker(line, known) for line in self.shown)
        if not has_markers and any(map(_DEFINITION.match, self.shown)):
            raise fault
        try:
            merged = self.checked(_merge_lines(self.lines, self.shown, self.newline))
        except MergeError:
            raise fault from None
        if self.num_doubled(merged):
            raise fault
        return merged

    def compared(self, by_structure: Merge) -> Merge:
        """Both merges as candidates, the one that doubles and drops less first."""
        try:
            by_lines = self.checked(_merge_lines(self.lines, self.shown, self.newline))
        except MergeError:
            return by_structure
        texts = sorted({by_structure.text: 0, by_lines.text: 1}, key=self._num_odd)
        if len(texts) == 1:
            return by_structure
        pieces = choose([split_lines(text) for text in texts])
        return self.checked(pieces)

    def num_doubled(self, merged: Merge) -> int:
        """Lines that the original has once and the snippet at most once, and the merged file more often."""
        counts = [Counter(map(key_of, lines)) for lines in (self.lines, self.shown, split_lines(merged.text))]
        return sum(
            counts[0][line] == 1 >= counts[1][line] and count > 1 and sum(map(str.isalnum, line)) >= _MIN_LETTERS
            for line, count in counts[2].items()
        )

    def _num_odd(self, text: str) -> int:
        dropped = Counter(map(key_of, self.lines)) - Counter(map(key_of, split_lines(text)))
        return self.num_doubled(Merge(text)) + dropped.total()


def _checked(merged: Merge, original: str, snippet: str) -> Merge:
    """The merge without candidates that fail ``verify``; an error where none is left for some hole."""
    holes: list[Hole] = []
    for number, hole in enumerate(merged.holes):
        picks = [0] * len(merged.holes)
        sound: list[str] = []
        faults: list[MergeError] = []
        for pick, candidate in enumerate(hole.candidates):
            picks[number] = pick
            try:
                verify(original, snippet, merged.resolve(picks))
            except MergeError as fault:
                faults.append(fault)
            else:
                sound.append(candidate)
        if not sound:
            raise faults[0]
        holes.append(replace(hole, candidates=tuple(sound)))
    settled = _settled(merged.text, holes)
    verify(original, snippet, settled.text)
    return settled


def _settled(text: str, holes: list[Hole]) -> Merge:
    """The text with the first sound candidate of each hole; a hole with only one is none."""
    result, last = "", 0
    open_holes: list[Hole] = []
    for hole in holes:
        result += text[last : hole.start]
        start = len(result)
        result += hole.candidates[0]
        if len(hole.candidates) > 1:
            open_holes.append(Hole(start, len(result), hole.candidates))
        last = hole.end
    return Merge(result + text[last:], tuple(open_holes))
