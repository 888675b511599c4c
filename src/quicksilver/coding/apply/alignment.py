"""Where a snippet's items go: an edit distance in which a marker keeps any run of the original for nothing.

Outside a marker, an item of the original that the snippet does not repeat is dropped. An alignment costs what it drops,
and the strength of every snippet item that the original has but the alignment does not find there: dropping too little
shows as code that stands there twice.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from quicksilver.coding.apply.items import Element, Item, Kind, Marker
from quicksilver.coding.apply.lines import num_code_lines
from quicksilver.errors import MergeError

MAX_CANDIDATES = 8
_MAX_CELLS = 20_000_000
_SURE = 1000
"""Cost of leaving out the match of an item that stands once in the original: never paid for shorter drops."""
_MIN_SURE_LETTERS = 6


class Move(Enum):
    """In order of preference between alignments of equal cost."""

    MATCH = "match"
    NEW = "new"
    LEAVE = "leave"
    """Go on behind a marker."""
    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Step:
    """One move, at an element of the snippet and a place in the original."""

    move: Move
    element: int
    place: int


@dataclass(frozen=True, slots=True)
class _Tail:
    """The rest of an alignment, as a linked list; ``text`` is equal for alignments that give the same text."""

    step: Step
    rest: "_Tail | None"
    text: int


def align(original: Sequence[Item], elements: Sequence[Element], drop_price: int) -> list[list[Step]]:
    """The cheapest alignments, one for each text that they give; of more than ``MAX_CANDIDATES``, one more than that.

    Args:
        original: all items of a scope.
        elements: what the snippet shows of it.
        drop_price: cost of dropping a line of code.

    Raises:
        MergeError: too many pairs of items to compare.
    """
    if (len(original) + 1) * (len(elements) + 1) > _MAX_CELLS:
        raise MergeError(
            f"{len(elements)} lines against {len(original)} are too many to compare; send a shorter snippet"
        )
    table = _Table(original, elements, drop_price)
    tails: dict[tuple[int, int], list[_Tail | None]] = {(len(elements), len(original)): [None]}
    for element, place in reversed(table.cheapest_states()):
        found: dict[int, _Tail] = {}
        for move, target in table.moves(element, place):
            for rest in tails[target]:
                text = hash((table.emitted(move, element, place), rest.text if rest else None))
                if move in (Move.DROP, Move.LEAVE):
                    text = rest.text if rest else 0
                if text not in found and len(found) <= MAX_CANDIDATES:
                    found[text] = _Tail(Step(move, element, place), rest, text)
        if found:
            tails[element, place] = list(found.values())
    return [_steps(tail) for tail in tails[0, 0]]


def _steps(tail: _Tail | None) -> list[Step]:
    steps: list[Step] = []
    while tail:
        steps.append(tail.step)
        tail = tail.rest
    return steps


class _Table:
    """Costs of the cheapest way from each state (element, place) to the end."""

    def __init__(self, original: Sequence[Item], elements: Sequence[Element], drop_price: int) -> None:
        self.original = original
        self.elements = elements
        counts = Counter(item.key for item in original)
        self.new_costs = [0 if isinstance(e, Marker) else _strength(e, counts) for e in elements]
        self.drop_costs = [_drop_cost(item, drop_price) for item in original]
        self.costs = [[0] * (len(original) + 1) for _ in range(len(elements) + 1)]
        self._fill()

    def _fill(self) -> None:
        size = len(self.original)
        last = self.costs[-1]
        for place in reversed(range(size)):
            last[place] = last[place + 1] + self.drop_costs[place]
        for number in reversed(range(len(self.elements))):
            element, row, below = self.elements[number], self.costs[number], self.costs[number + 1]
            if isinstance(element, Marker):
                row[size] = below[size]
                for place in reversed(range(size)):
                    row[place] = min(below[place], row[place + 1])
                continue
            new = self.new_costs[number]
            row[size] = below[size] + new
            for place in reversed(range(size)):
                best = min(below[place] + new, row[place + 1] + self.drop_costs[place])
                if self.original[place].key == element.key:
                    best = min(best, below[place + 1] + self._match_cost(element, place))
                row[place] = best

    def _match_cost(self, element: Item, place: int) -> int:
        """Of two items with one name, the one that is not changed."""
        return int(element.kind is not Kind.LINE and self.original[place].lines != element.lines)

    def moves(self, number: int, place: int) -> list[tuple[Move, tuple[int, int]]]:
        """The moves from a state that keep its cost, with where they lead."""
        offers: list[tuple[Move, int, tuple[int, int]]] = []
        element = None if number == len(self.elements) else self.elements[number]
        has_place = place < len(self.original)
        if isinstance(element, Marker):
            offers.append((Move.LEAVE, 0, (number + 1, place)))
        elif element is not None:
            if has_place and self.original[place].key == element.key:
                offers.append((Move.MATCH, self._match_cost(element, place), (number + 1, place + 1)))
            offers.append((Move.NEW, self.new_costs[number], (number + 1, place)))
        if has_place and isinstance(element, Marker):
            offers.append((Move.KEEP, 0, (number, place + 1)))
        elif has_place:
            offers.append((Move.DROP, self.drop_costs[place], (number, place + 1)))
        left = self.costs[number][place]
        return [
            (move, (row, column)) for move, price, (row, column) in offers if price + self.costs[row][column] == left
        ]

    def cheapest_states(self) -> list[tuple[int, int]]:
        """All states on cheapest ways, sorted, without the end."""
        end = (len(self.elements), len(self.original))
        reached = {(0, 0)}
        order: list[tuple[int, int]] = []
        rows: list[set[int]] = [set() for _ in range(len(self.elements) + 1)]
        rows[0].add(0)
        for number, row in enumerate(rows):
            place = min(row, default=len(self.original) + 1)
            while place <= len(self.original):
                if place in row and (number, place) != end:
                    order.append((number, place))
                    for _, target in self.moves(number, place):
                        if target not in reached:
                            reached.add(target)
                            rows[target[0]].add(target[1])
                place += 1
        return order

    def emitted(self, move: Move, number: int, place: int) -> Hashable:
        """What a step adds to the text; the same for steps that add the same."""
        element = None if number == len(self.elements) else self.elements[number]
        if move is Move.KEEP or not isinstance(element, Item):
            return _content(self.original[place].lines) if place < len(self.original) else None
        if move is Move.MATCH and _content(element.lines) != _content(self.original[place].lines):
            return (number, place)
        return _content(element.lines)


def _content(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(line.rstrip() for line in lines)


def _strength(item: Item, counts: Counter[Hashable]) -> int:
    """What it costs to take an item for new though the original has it: little where it stands there often."""
    count = counts[item.key]
    if not count:
        return 0
    if item.kind is not Kind.LINE:
        return 2 * _SURE
    letters = sum(map(str.isalnum, item.lines[0]))
    if count == 1 and letters >= _MIN_SURE_LETTERS:
        return _SURE
    return max(2, 3 * min(letters, 20) // count)


def _drop_cost(item: Item, price: int) -> int:
    """Less for a blank line than a new blank line costs, so that those there are used."""
    return 1 if item.is_blank else price * min(num_code_lines(item.lines), 30)
