"""Rules that begin with themselves: made to loops where they do so directly, refused elsewhere."""

from collections.abc import Iterable

from quicksilver.constraints.expression import (
    Alternatives,
    Characters,
    Expression,
    Isolated,
    Literal,
    Repeat,
    Rule,
    Sequence,
    Special,
)
from quicksilver.errors import UnsupportedConstraintError


def without_left_recursion(rules: list[Rule]) -> None:
    """Rewrite ``a: a x | y`` to ``a: y x*`` in place.

    Raises:
        UnsupportedConstraintError: a rule begins with itself by way of others, or behind what may be empty.
    """
    for rule in rules:
        _rewrite(rule)
    nullable = _nullable(rules)
    begins = {rule: set(_beginnings(rule.body, nullable)) for rule in rules}
    for rule in rules:
        reached, waiting = set(begins[rule]), list(begins[rule])
        while waiting:
            new = begins.get(waiting.pop(), set()) - reached
            reached |= new
            waiting.extend(new)
        if rule in reached:
            raise UnsupportedConstraintError(
                f"rule {rule.name!r} begins with itself by way of other rules or groups: such left recursion is not "
                "supported; a rule whose own alternatives begin with it is"
            )


def _rewrite(rule: Rule) -> None:
    options = [_flat(option) for option in _options(rule.body)]
    again = [option[1:] for option in options if option and option[0] is rule]
    if not again:
        return
    others = [option for option in options if not option or option[0] is not rule]
    loop = Repeat(Alternatives(tuple(Sequence(tuple(each)) for each in again)))
    rule.body = Sequence((Alternatives(tuple(Sequence(tuple(each)) for each in others)), loop))


def _options(part: Expression) -> list[Expression]:
    if isinstance(part, Alternatives):
        return [option for each in part.parts for option in _options(each)]
    return [part]


def _flat(part: Expression) -> list[Expression]:
    return [inner for each in part.parts for inner in _flat(each)] if isinstance(part, Sequence) else [part]


def _nullable(rules: list[Rule]) -> set[Rule]:
    found: set[Rule] = set()
    while True:
        more = {rule for rule in rules if rule not in found and _may_be_empty(rule.body, found)}
        if not more:
            return found
        found |= more


def _may_be_empty(part: Expression, nullable: set[Rule]) -> bool:
    match part:
        case Characters() | Special():
            return False
        case Literal(text):
            return not text
        case Rule():
            return part in nullable
        case Sequence(parts):
            return all(_may_be_empty(each, nullable) for each in parts)
        case Alternatives(parts):
            return any(_may_be_empty(each, nullable) for each in parts)
        case Repeat(inner, least, _):
            return least == 0 or _may_be_empty(inner, nullable)
        case Isolated(inner):
            return _may_be_empty(inner, nullable)
        case _:
            return True  # products: not looked into


def _beginnings(part: Expression, nullable: set[Rule]) -> Iterable[Rule]:
    """Rules with which an expression may begin."""
    match part:
        case Rule():
            yield part
        case Sequence(parts):
            for each in parts:
                yield from _beginnings(each, nullable)
                if not _may_be_empty(each, nullable):
                    return
        case Alternatives(parts):
            for each in parts:
                yield from _beginnings(each, nullable)
        case Repeat(inner):
            yield from _beginnings(inner, nullable)
        case _:
            return
