"""What a merge moves about: items, which are lines or definitions, and the markers between a snippet's items."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from quicksilver.coding.apply.lines import Lines, is_blank, key_of


class Kind(Enum):
    """Lines go by their text, the others by their name."""

    LINE = "line"
    DEFINITION = "definition"
    ASSIGNMENT = "assignment"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of a text that stays together."""

    kind: Kind
    key: Hashable
    """Equal for an item and its rewrite: a line's text, a definition's name."""
    lines: Lines
    start: int
    """Index of its first line in its text."""

    @property
    def is_blank(self) -> bool:
        return self.kind is Kind.LINE and is_blank(self.lines[0])


@dataclass(frozen=True, slots=True)
class Marker:
    """Stands for a run of the original's items, maybe none."""

    num_before: int = 0
    """Blank lines between the snippet's code and the marker."""
    num_after: int = 0


Element = Item | Marker


def line_item(line: str, start: int) -> Item:
    return Item(Kind.LINE, key_of(line), (line,), start)


def line_items(lines: Sequence[str], start: int = 0) -> tuple[Item, ...]:
    return tuple(line_item(line, start + place) for place, line in enumerate(lines))


def tidy(elements: Sequence[Element]) -> tuple[Element, ...]:
    """Blank lines beside a marker become counts of the marker, and neighbouring markers one."""
    result: list[Element] = []
    num_blank = 0
    for element in elements:
        if isinstance(element, Item) and element.is_blank and result and isinstance(result[-1], Marker):
            num_blank += 1
            continue
        if isinstance(element, Marker):
            num_before = 0
            while result and isinstance(result[-1], Item) and result[-1].is_blank:
                result.pop()
                num_before += 1
            if result and isinstance(result[-1], Marker):
                element = Marker(result[-1].num_before, element.num_after)
                result.pop()
            else:
                element = Marker(num_before, element.num_after)
        elif num_blank:
            result[-1] = _with_after(result[-1], num_blank)
        num_blank = 0
        result.append(element)
    return tuple(result)


def _with_after(marker: Element, num_after: int) -> Marker:
    return Marker(marker.num_before if isinstance(marker, Marker) else 0, num_after)
