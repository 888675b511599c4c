"""Merge what a snippet shows of one scope (a file, a class body, a function body) into the original's.

With markers, what is adjacent in the snippet is adjacent in the result. Without any, a list of definitions names what
it replaces, and everything else stays.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from quicksilver.coding.apply.alignment import MAX_CANDIDATES, Move, Step, align
from quicksilver.coding.apply.items import Element, Item, Kind, Marker, line_item, tidy
from quicksilver.coding.apply.lines import Lines, indent_of, is_blank, is_similar, num_code_lines
from quicksilver.coding.apply.markers import is_comment_marker, is_marker
from quicksilver.coding.apply.pieces import Piece, choose, likeliest
from quicksilver.errors import MergeError


class ElisionError(MergeError):
    """The snippet elides what the original does not have; no other way to merge can find it either."""


MergeItems = Callable[[Item, Item], list[Piece]]
"""The original's item and the snippet's of the same key to what becomes of them."""

_DROP_PRICES = (1, 8)
"""An alignment that depends on what a dropped line costs is not determined."""
_ASSIGNMENT = re.compile(r"\s*(?P<target>[\w.]+)(?:\s*:[^=]+)?\s*=(?!=)(?P<value>.*)")
_LEAVING = re.compile(r"\s*(return|raise|break|continue|throw)\b")
_HEAD = re.compile(r"\s*(?:else|elif|except|finally|case|default|def|class|async def|@|#|//|}|end)")
_MANY_LINES = 10
"""So many lines are not dropped for fewer than half as many without asking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """How the snippet's elements stand to the original's ends."""

    is_open: bool
    """The snippet may start and end anywhere: its ends count as markers."""
    newline: str


@dataclass(slots=True)
class _Segment:
    """A run of steps between matches: what is kept under a marker, or what is dropped and new outside of one."""

    marker: Marker | None = None
    kept: list[Item] = field(default_factory=list)
    dropped: list[Item] = field(default_factory=list)
    new: list[Item] = field(default_factory=list)
    match: tuple[Item, Item] | None = None


def merge_elements(
    original: Sequence[Item], elements: Sequence[Element], scope: Scope, merge_items: MergeItems
) -> list[Piece]:
    """The scope with the snippet in it, where the snippet has markers or its ends are open.

    Raises:
        MergeError: a part of the snippet between two markers has nothing in common with the original, or there are too
            many places where it could go.
    """
    results: list[list[Piece]] = []
    for variant in _placed(original, tidy(elements), scope):
        for price, outcome in _outcomes(original, variant):
            pieces = _rendered(_segments(outcome, original, variant), scope, merge_items)
            if not any(likeliest(pieces) == likeliest(known) for known in results):
                results.append(pieces)
            if len(results) > MAX_CANDIDATES:
                raise MergeError(
                    f"the snippet fits in more than {MAX_CANDIDATES} places (drop price {price}); "
                    "show more unchanged lines around what changes"
                )
    return results[0] if len(results) == 1 else choose([likeliest(pieces) for pieces in results])


def _outcomes(original: Sequence[Item], elements: Sequence[Element]) -> Iterator[tuple[int, list[Step]]]:
    for price in _DROP_PRICES:
        for steps in align(original, elements, price):
            yield price, steps


def _placed(original: Sequence[Item], elements: Sequence[Element], scope: Scope) -> Iterator[tuple[Element, ...]]:
    """The elements with markers for open ends, and a variant for each place of an unanchored definition."""
    known = {item.key for item in original if not item.is_blank}
    chunks = _chunks(elements)
    last = len(chunks) - 1
    floating: list[int] = []
    for number, (_, chunk) in enumerate(chunks):
        if 0 < number < last and chunk and not any(item.key in known for item in chunk):
            if not all(item.kind is Kind.DEFINITION or _is_comment_or_blank(item) for item in chunk):
                raise MergeError(
                    f"nothing of this part of the snippet is in the original: {chunk[0].lines[0].strip()!r}; "
                    "show an unchanged line beside it"
                )
            floating.append(number)
    if len(floating) > 2:
        raise MergeError(
            f"{len(floating)} new definitions between markers could stand anywhere; show what precedes them"
        )
    sides = [(True, False) if any(chunk for _, chunk in chunks[:number]) else (False, True) for number in floating]
    for chosen in itertools.product(*sides):
        yield _joined(chunks, dict(zip(floating, chosen, strict=True)), known, scope)


def _is_comment_or_blank(item: Item) -> bool:
    return item.kind is Kind.LINE and (item.is_blank or item.lines[0].lstrip().startswith("#"))


def _chunks(elements: Sequence[Element]) -> list[tuple[Marker | None, list[Item]]]:
    """The runs of items, each with the marker before it; the first and the last may be empty."""
    chunks: list[tuple[Marker | None, list[Item]]] = [(None, [])]
    for element in elements:
        if isinstance(element, Marker):
            chunks.append((element, []))
        else:
            chunks[-1][1].append(element)
    return chunks


def _joined(
    chunks: Sequence[tuple[Marker | None, list[Item]]], is_joined_before: dict[int, bool], known: set, scope: Scope
) -> tuple[Element, ...]:
    """Chunks as elements again, with blank lines for the marker on the side that an unanchored chunk is joined to."""
    elements: list[Element] = []
    for number, (marker, chunk) in enumerate(chunks):
        is_left_out = is_joined_before.get(number, False) or is_joined_before.get(number - 1) is False
        if marker and is_left_out:
            num_blank = max(marker.num_before, marker.num_after) if elements and chunk else 0
            elements.extend(line_item(scope.newline, -1) for _ in range(num_blank))
        elif marker:
            elements.append(marker)
        elements.extend(chunk)
    if scope.is_open:
        first, last = chunks[0][1], chunks[-1][1]
        if any(item.key in known for item in first):
            elements.insert(0, Marker())
        if any(item.key in known for item in last):
            elements.append(Marker())
    return tuple(elements)


def _segments(steps: Sequence[Step], original: Sequence[Item], elements: Sequence[Element]) -> list[_Segment]:
    segments = [_Segment()]
    for step in steps:
        element = elements[step.element] if step.element < len(elements) else None
        if isinstance(element, Marker):
            if segments[-1].marker is not element:
                segments.append(_Segment(marker=element))
            if step.move is Move.KEEP:
                segments[-1].kept.append(original[step.place])
            continue
        if segments[-1].marker or segments[-1].match:
            segments.append(_Segment())
        if step.move is Move.DROP:
            segments[-1].dropped.append(original[step.place])
        elif isinstance(element, Item) and step.move is Move.NEW:
            segments[-1].new.append(element)
        elif isinstance(element, Item):
            segments.append(_Segment(match=(original[step.place], element)))
    return segments


class Writer:
    """Lines one after the other, with at least the blank lines that the snippet has between two of them."""

    def __init__(self, newline: str) -> None:
        self.pieces: list[Piece] = []
        self._newline = newline
        self._num_wanted = 0

    def want(self, num_blank: int) -> None:
        self._num_wanted = max(self._num_wanted, num_blank)

    def write(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, str) and is_blank(piece):
                self.pieces.append(piece)
                continue
            missing = self._num_wanted - self._num_blank()
            self.pieces.extend([self._newline] * (missing if self.pieces else 0))
            self._num_wanted = 0
            self.pieces.append(piece)

    def _num_blank(self) -> int:
        last = itertools.takewhile(lambda piece: isinstance(piece, str) and is_blank(piece), reversed(self.pieces))
        return sum(1 for _ in last)


def _rendered(segments: Sequence[_Segment], scope: Scope, merge_items: MergeItems) -> list[Piece]:
    writer = Writer(scope.newline)
    is_behind_marker = False
    for number, segment in enumerate(segments):
        before = segments[number - 1] if number else None
        after = segments[number + 1] if number + 1 < len(segments) else None
        if segment.marker:
            if before and before.new:
                writer.want(segment.marker.num_before)
            writer.write(lines_of(segment.kept))
        elif segment.match:
            writer.write(merge_items(*segment.match))
            if not segment.match[0].is_blank:
                is_behind_marker = is_marker(segment.match[1].lines[-1])
        elif is_behind_marker and all(item.is_blank for item in (*segment.dropped, *segment.new)):
            # Behind a marker that ends a definition, blank lines are layout too.
            writer.write(lines_of(segment.dropped))
        else:
            if before and before.marker and segment.new:
                writer.want(before.marker.num_after)
            _write_change(writer, segment, before, after)
    return writer.pieces


def _write_change(writer: Writer, segment: _Segment, before: _Segment | None, after: _Segment | None) -> None:
    new, dropped = new_lines(segment.new), lines_of(segment.dropped)
    is_at_end = after is None
    if segment.dropped and _is_doubtful(segment, is_at_end):
        both = (*dropped, *new)
        writer.write(choose([both, new] if is_at_end and not new else [new, both]))
    elif not segment.dropped and before and before.marker and (size := _num_replaced(before.kept, segment.new)):
        kept = lines_of(before.kept[-size:])
        del writer.pieces[-len(kept) :]
        writer.write(list(new) if size == 1 and _is_moot(kept[-1], new) else choose([new, (*kept, *new)]))
    elif not segment.dropped and after and after.marker and (size := _num_replaced_behind(segment.new, after.kept)):
        kept = lines_of(after.kept[:size])
        del after.kept[:size]
        writer.write(list(new) if size == 1 and _is_moot(new[-1], kept) else choose([new, (*new, *kept)]))
    else:
        writer.write(new)


def new_lines(items: Sequence[Item]) -> Lines:
    """Lines that the original does not have.

    Raises:
        ElisionError: a marker among them.
    """
    lines = lines_of(items)
    if marker := next(filter(is_comment_marker, lines), None):
        raise ElisionError(f"{marker.strip()!r} within the new {lines[0].strip()!r} stands for nothing; show all of it")
    return lines


def lines_of(items: Sequence[Item]) -> Lines:
    return tuple(line for item in items for line in item.lines)


def _is_doubtful(segment: _Segment, is_at_end: bool) -> bool:
    """Whether code may have been left out of the snippet by mistake rather than dropped."""
    if is_at_end and not segment.new:
        return num_code_lines(lines_of(segment.dropped)) > 0
    if any(item.kind is Kind.DEFINITION for item in segment.dropped):
        return True
    num_dropped = num_code_lines(lines_of(segment.dropped))
    return num_dropped >= _MANY_LINES and 2 * num_code_lines(lines_of(segment.new)) < num_dropped


def _num_replaced(kept: Sequence[Item], new: Sequence[Item]) -> int:
    """How many of the last kept lines the new ones behind them seem to replace."""
    if not kept or not new:
        return 0
    size = len(new)
    if _are_rewrites(kept[-size:], new):
        return size
    return int(_is_dead_after(kept[-1].lines[-1], new[0].lines[0]) or _is_moot(kept[-1].lines[-1], new[0].lines))


def _num_replaced_behind(new: Sequence[Item], kept: Sequence[Item]) -> int:
    """How many of the first kept lines the new ones before them seem to replace."""
    if not kept or not new:
        return 0
    size = len(new)
    if _are_rewrites(kept[:size], new):
        return size
    return int(_is_dead_after(new[-1].lines[-1], kept[0].lines[0]) or _is_moot(new[-1].lines[-1], kept[0].lines))


def _are_rewrites(kept: Sequence[Item], new: Sequence[Item]) -> bool:
    return len(kept) == len(new) and all(
        one.kind is other.kind is Kind.LINE
        and not one.is_blank
        and not other.is_blank
        and is_similar(one.lines[0], other.lines[0])
        for one, other in zip(kept, new, strict=True)
    )


def _is_dead_after(first: str, second: str) -> bool:
    """Whether a line that leaves the block makes the next one dead."""
    return bool(_LEAVING.match(first)) and indent_of(first) == indent_of(second) and not _HEAD.match(second)


def _is_moot(first: str, following: Sequence[str]) -> bool:
    """Whether one of two neighbours is certainly meant to go: both leave the block, or set the same name anew."""
    second = following[0]
    if _is_dead_after(first, second):
        keywords = {match[1] for line in (first, following[-1]) if (match := _LEAVING.match(line))}
        return len(keywords) == 1 and bool(_LEAVING.match(following[-1]))
    one, other = _ASSIGNMENT.match(first), _ASSIGNMENT.match(second)
    if indent_of(first) != indent_of(second) or one is None or other is None or one["target"] != other["target"]:
        return False
    return not re.search(rf"(?<![\w.]){re.escape(one['target'])}(?!\w)", other["value"])
