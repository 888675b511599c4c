"""Fitting a long file into a short context: what the model sees of the text around the holes."""

import bisect
from collections.abc import Sequence

Ids = tuple[int, ...]


def crop_around_holes(texts: Sequence[Ids], budget: int, newline_id: int) -> list[Ids]:
    """The tokens nearest the holes, at most ``budget`` of them, as whole lines where a line fits.

    Every side of every hole is seen equally far; what a short side does not need goes to the others.

    Args:
        texts: tokens before, between and behind the holes; at least two.
        budget: most tokens in all, not negative.
        newline_id: the token that ends a line.

    Returns:
        The part of each text that is seen. A text between two distant holes may lose its middle.
    """

    def reach(radius: int) -> int:
        return sum(len(head) + len(tail) for head, tail in _within(texts, radius))

    longest = max(len(text) for text in texts)
    radius = bisect.bisect_right(range(longest + 1), budget, key=reach) - 1
    kept = []
    for text, (head, tail) in zip(texts, _within(texts, radius), strict=True):
        is_whole = len(head) + len(tail) == len(text)
        kept.append(
            text
            if is_whole
            else _to_line_end(text, len(head), newline_id) + _from_line_start(text, len(tail), newline_id)
        )
    return kept


def _within(texts: Sequence[Ids], radius: int) -> list[tuple[Ids, Ids]]:
    """Of each text what lies within ``radius`` tokens of the hole before it, and of the hole behind it; disjoint."""
    sides = []
    for index, text in enumerate(texts):
        head = text[:radius] if index > 0 else ()
        rest = text[len(head) :]
        tail = rest[max(len(rest) - radius, 0) :] if index < len(texts) - 1 else ()
        sides.append((head, tail))
    return sides


def _to_line_end(text: Ids, count: int, newline_id: int) -> Ids:
    """The first ``count`` tokens without the line that is cut, unless that is all there is."""
    ends = [at for at in range(1, count + 1) if text[at - 1] == newline_id]
    return text[: ends[-1] if ends else count]


def _from_line_start(text: Ids, count: int, newline_id: int) -> Ids:
    """The last ``count`` tokens without the line that is cut, unless that is all there is."""
    first = len(text) - count
    starts = [at for at in range(max(first, 1), len(text)) if text[at - 1] == newline_id]
    return text[starts[0] if starts else first :]


def splice(texts: Sequence[str], fillings: Sequence[str]) -> str:
    """The texts with the fillings between them."""
    return "".join([part for pair in zip(texts, fillings, strict=False) for part in pair] + [texts[-1]])
