"""The one form into which every constraint is brought: expressions over Unicode text and special tokens.

Expressions are compared by identity: a part that is used twice is compiled once where that is possible. Languages that
call themselves are written with ``Rule``, whose body is set after it was made.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from quicksilver.errors import ConfigError

Ranges = tuple[tuple[int, int], ...]
"""Code points as closed intervals, ascending, apart from each other, without surrogates."""

MAX_CODE_POINT = 0x10FFFF
_FIRST_SURROGATE, _LAST_SURROGATE = 0xD800, 0xDFFF


class Expression:
    """A set of texts."""


@dataclass(frozen=True, eq=False)
class Characters(Expression):
    """One character out of ranges of code points."""

    ranges: Ranges


@dataclass(frozen=True, eq=False)
class Literal(Expression):
    """One text, as it is."""

    text: str


@dataclass(frozen=True, eq=False)
class Special(Expression):
    """One special token, which no bytes can write."""

    name: str


@dataclass(frozen=True, eq=False)
class Sequence(Expression):
    """One part after the other; without parts: the empty text."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Alternatives(Expression):
    """Any of the parts; without parts: no text at all."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Repeat(Expression):
    """A part ``least`` to ``most`` times; None: any number."""

    part: Expression
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, eq=False)
class Intersection(Expression):
    """Texts that belong to all parts."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Difference(Expression):
    """Texts of ``base`` that are not in ``removed``, which must not be clipped."""

    base: Expression
    removed: Expression


@dataclass(frozen=True, eq=False)
class Isolated(Expression):
    """Compiled and minimised on its own: anchors inside it mean its own ends."""

    part: Expression
    key: str | None = None
    """Names the language for good, so that it is kept for other constraints; for expressions without special tokens."""


@dataclass(frozen=True, eq=False)
class TextStart(Expression):
    """The empty text, where the isolated expression around it begins."""


@dataclass(frozen=True, eq=False)
class TextEnd(Expression):
    """The empty text, where the isolated expression around it ends."""


@dataclass(eq=False)
class Rule(Expression):
    """A named expression, which may call itself.

    Calls at the end of a rule are loops; others nest, and are cut where a rule is nested in itself more often than
    the recursion depth. Rules that are no level are looked through: they are not counted.
    """

    name: str
    is_level: bool = True
    _body: Expression | None = field(default=None, repr=False)

    @property
    def body(self) -> Expression:
        if self._body is None:
            raise ConfigError(f"rule {self.name!r} is used and nowhere defined")
        return self._body

    @body.setter
    def body(self, body: Expression) -> None:
        self._body = body


EMPTY = Sequence(())
NOTHING = Alternatives(())
ANY_CHARACTER = Characters(((0, _FIRST_SURROGATE - 1), (_LAST_SURROGATE + 1, MAX_CODE_POINT)))
ANY_TEXT = Repeat(ANY_CHARACTER)


def ranges_of(intervals: Iterable[tuple[int, int]]) -> Ranges:
    """Intervals in any order, overlapping or not, as ``Ranges``."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(_without_surrogates(intervals)):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _without_surrogates(intervals: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for low, high in intervals:
        if low < _FIRST_SURROGATE:
            yield low, min(high, _FIRST_SURROGATE - 1)
        if high > _LAST_SURROGATE:
            yield max(low, _LAST_SURROGATE + 1), high


def complement_of(ranges: Ranges) -> Ranges:
    """All other code points."""
    edges = [-1, *(edge for low, high in ranges for edge in (low - 1, high)), MAX_CODE_POINT]
    return ranges_of((low + 1, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high)


def common_ranges(left: Ranges, right: Ranges) -> Ranges:
    """Code points in both."""
    return ranges_of((max(a, c), min(b, d)) for a, b in left for c, d in right if max(a, c) <= min(b, d))


def characters(*intervals: str | tuple[str, str]) -> Characters:
    """One of the characters of strings, or from the first to the second of pairs: ``characters("_", ("a", "z"))``."""
    singles = [(ord(each), ord(each)) for part in intervals if isinstance(part, str) for each in part]
    return Characters(ranges_of([*singles, *((ord(p[0]), ord(p[1])) for p in intervals if not isinstance(p, str))]))


def sequence(*parts: Expression | str) -> Expression:
    """Parts in order; strings stand for themselves."""
    found = tuple(Literal(part) if isinstance(part, str) else part for part in parts if part != "")
    return found[0] if len(found) == 1 else Sequence(found)


def alternatives(*options: Expression | str) -> Expression:
    """Any of the options; strings stand for themselves."""
    found = tuple(Literal(option) if isinstance(option, str) else option for option in options)
    return found[0] if len(found) == 1 else Alternatives(found)


def optional(part: Expression | str) -> Expression:
    return Repeat(sequence(part), 0, 1)


def map_characters(expression: Expression, change: Callable[[Ranges], Expression]) -> Expression:
    """The expression with every character, those of literals too, replaced by what ``change`` makes of it.

    For expressions without rules.
    """
    done: dict[Expression, Expression] = {}

    def walk(part: Expression) -> Expression:
        if part not in done:
            done[part] = _leaf_changed(part, change) or _with_parts(part, walk)
        return done[part]

    return walk(expression)


def _leaf_changed(part: Expression, change: Callable[[Ranges], Expression]) -> Expression | None:
    match part:
        case Characters(ranges):
            return change(ranges)
        case Literal(text):
            return Sequence(tuple(change(((ord(each), ord(each)),)) for each in text))
        case TextStart() | TextEnd():
            return part
        case _:
            return None


def _with_parts(part: Expression, walk: Callable[[Expression], Expression]) -> Expression:
    match part:
        case Sequence(parts) | Intersection(parts) | Alternatives(parts):
            return type(part)(tuple(map(walk, parts)))
        case Repeat(inner, least, most):
            return Repeat(walk(inner), least, most)
        case Difference(base, removed):
            return Difference(walk(base), walk(removed))
        case Isolated(inner):
            return Isolated(walk(inner))
        case _:
            raise ConfigError(f"characters of {type(part).__name__} cannot be replaced")
