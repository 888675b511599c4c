"""Snippets without markers: what they define replaces what has the same name, and everything else stays."""

from collections.abc import Sequence

from quicksilver.coding.apply.alignment import Move, align
from quicksilver.coding.apply.items import Element, Item, Kind, Marker
from quicksilver.coding.apply.pieces import Piece
from quicksilver.coding.apply.scopes import MergeItems, Writer, lines_of, new_lines
from quicksilver.errors import MergeError


def merge_by_name(
    original: Sequence[Item], snippet: Sequence[Item], newline: str, merge_items: MergeItems
) -> list[Piece]:
    """Each item of the snippet at the place of its namesake; a new one behind the item that precedes it.

    Raises:
        MergeError: no item is in the original, or their order is another one, or a name stands there twice.
    """
    matches = matched(original, snippet)
    if not matches:
        raise MergeError(
            "nothing of the snippet is in the original; show an unchanged line or definition beside the edit"
        )
    writer = Writer(newline)
    place, num_blank = 0, 0
    new: list[tuple[int, Item]] = []
    for number, item in enumerate(snippet):
        if item.is_blank:
            num_blank += 1
        elif number not in matches:
            new.append((num_blank, item))
            num_blank = 0
        else:
            kept = lines_of(original[place : matches[number]])
            writer.write([] if place else kept)
            _write_new(writer, new, num_blank if not (place and kept) or _is_definition(new) else 0)
            writer.write(kept if place else [])
            writer.write(merge_items(original[matches[number]], item))
            place, num_blank, new = matches[number] + 1, 0, []
    _write_new(writer, new, new[-1][0] if _is_definition(new) else 0)
    writer.write(lines_of(original[place:]))
    return writer.pieces


def matched(original: Sequence[Item], snippet: Sequence[Item]) -> dict[int, int]:
    """Places in the original by numbers in the snippet, in one order.

    Raises:
        MergeError: there are several ways, or some item that the original has cannot be matched.
    """
    known = {item.key for item in original}
    numbers = [n for n, item in enumerate(snippet) if item.key in known and not item.is_blank]
    elements: list[Element] = [Marker()]
    for number in numbers:
        elements += [snippet[number], Marker()]
    outcomes = align(original, elements, 1)
    pairs = [
        {numbers[step.element // 2]: step.place for step in steps if step.move is Move.MATCH} for steps in outcomes
    ]
    for number in numbers:
        where = {found.get(number) for found in pairs}
        if None in where:
            raise MergeError(f"{_name(snippet[number])} stands elsewhere in the original; keep to the original's order")
        if len(where) > 1:
            raise MergeError(
                f"{_name(snippet[number])} stands in several places of the original; show what is around it"
            )
    return pairs[0]


def _write_new(writer: Writer, new: Sequence[tuple[int, Item]], num_after: int) -> None:
    """New items, each behind as many blank lines as in the snippet, and as many behind the last."""
    for num_before, item in new:
        writer.want(num_before)
        writer.write(new_lines([item]))
    writer.want(num_after if new else 0)


def _is_definition(new: Sequence[tuple[int, Item]]) -> bool:
    return bool(new) and new[-1][1].kind is Kind.DEFINITION


def _name(item: Item) -> str:
    return repr(item.lines[0].strip())
