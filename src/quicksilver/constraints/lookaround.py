"""Lookaheads and lookbehinds as products, where what they look at is the rest of the text or all before."""

from collections.abc import Iterator
from dataclasses import dataclass

from quicksilver.constraints.expression import (
    ANY_TEXT,
    EMPTY,
    Alternatives,
    Characters,
    Difference,
    Expression,
    Intersection,
    Isolated,
    Ranges,
    Repeat,
    Sequence,
    TextEnd,
    TextStart,
    common_ranges,
    complement_of,
)
from quicksilver.errors import UnsupportedConstraintError


@dataclass(frozen=True, eq=False)
class Look(Expression):
    """The empty text where ``part`` begins here (``ahead``) or ends here, or does not."""

    part: Expression
    ahead: bool
    negative: bool
    source: str
    """As it was written, for errors."""


@dataclass(frozen=True, eq=False)
class Boundary(Expression):
    """The empty text between a character of a word and one that is of none, or not there."""

    word: Ranges
    negative: bool
    source: str


def whole_text(part: Expression, *, search: bool) -> Expression:
    """The texts that an expression with lookarounds matches, from end to end or anywhere in them.

    Raises:
        UnsupportedConstraintError: a lookaround is repeated, or two of them look across each other.
    """
    around = ANY_TEXT if search else EMPTY
    return Isolated(_without_looks([around, part, around]))


def _without_looks(parts: list[Expression]) -> Expression:
    parts = list(_flat(parts))
    place = next((index for index, part in enumerate(parts) if _has_look(part)), None)
    if place is None:
        return Sequence(tuple(parts))
    left, part, right = parts[:place], parts[place], parts[place + 1 :]
    match part:
        case Alternatives(options):
            return Alternatives(tuple(_without_looks([*left, option, *right]) for option in options))
        case Repeat(inner, 0, 1):
            return Alternatives((_without_looks([*left, *right]), _without_looks([*left, inner, *right])))
        case Boundary():
            return _without_looks([*left, _one_sided(part, left, right), *right])
        case Look(ahead=True):
            return _ahead(part, left, right)
        case Look():
            return _behind(part, left, right)
        case _:
            raise _refused(part, "is repeated")


def _ahead(look: Look, left: list[Expression], right: list[Expression]) -> Expression:
    if any(isinstance(each, Look) and not each.ahead for part in right for each in _inside(part)):
        raise _refused(look, "stands before a lookbehind")
    if any(isinstance(each, TextStart) for part in (*right, look.part) for each in _inside(part)):
        raise _refused(look, "stands before a ^")
    seen = Isolated(_without_looks([look.part, ANY_TEXT]))
    return Sequence((*left, _both(Isolated(_without_looks(right)), seen, look.negative)))


def _behind(look: Look, left: list[Expression], right: list[Expression]) -> Expression:
    if any(isinstance(each, TextEnd) for part in (*left, look.part) for each in _inside(part)):
        raise _refused(look, "stands behind a $")
    seen = Isolated(_without_looks([ANY_TEXT, look.part]))
    # Nothing is left of `^` behind this point but what is checked here: it would hold only for the empty text before.
    if any(isinstance(each, TextStart) for part in right for each in _inside(part)):
        raise _refused(look, "stands before a ^")
    before = _both(Isolated(Sequence(tuple(left))), seen, look.negative)
    return Sequence((before, _without_looks(right)))


def _both(part: Expression, seen: Expression, negative: bool) -> Expression:
    return Difference(part, seen) if negative else Intersection((part, seen))


def _one_sided(boundary: Boundary, left: list[Expression], right: list[Expression]) -> Look:
    r"""``\b`` beside a character that is known to be of a word or of none looks to the other side alone."""
    word = Characters(boundary.word)
    for beside, ahead in ((left[-1:], True), (right[:1], False)):
        kind = _is_of_word(beside[0], boundary.word) if beside else None
        if kind is not None:
            return Look(word, ahead, kind != boundary.negative, boundary.source)
    raise _refused(boundary, "stands beside no character of which it is known whether it belongs to a word")


def _is_of_word(part: Expression, word: Ranges) -> bool | None:
    match part:
        case Characters(ranges) | Repeat(Characters(ranges), _, _) if getattr(part, "least", 1) > 0:
            if not common_ranges(ranges, complement_of(word)):
                return True
            return None if common_ranges(ranges, word) else False
        case TextStart() | TextEnd():
            return False
        case _:
            return None


def _flat(parts: list[Expression]) -> Iterator[Expression]:
    for part in parts:
        if isinstance(part, Sequence):
            yield from _flat(list(part.parts))
        else:
            yield part


def _has_look(part: Expression) -> bool:
    return any(isinstance(each, Look | Boundary) for each in _inside(part))


def _inside(part: Expression) -> Iterator[Expression]:
    """The part and all parts of it; not what isolated parts and lookarounds hold."""
    yield part
    match part:
        case Sequence(parts):
            inner = parts
        case Alternatives(options):
            inner = options
        case Repeat(repeated):
            inner = (repeated,)
        case _:
            inner = ()
    for each in inner:
        yield from _inside(each)


def _refused(part: Expression, why: str) -> UnsupportedConstraintError:
    look = next(each for each in _inside(part) if isinstance(each, Look | Boundary))
    return UnsupportedConstraintError(f"the lookaround {look.source} {why}: it cannot be kept exactly")
