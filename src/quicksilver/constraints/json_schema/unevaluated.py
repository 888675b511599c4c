"""``unevaluatedProperties`` and ``unevaluatedItems``: what other keywords left over.

What a branch looks at counts only where it holds. So the cases are told apart by which branches hold, and in each of
them the keyword is the same as ``additionalProperties`` or ``items``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from quicksilver.constraints.json_schema import atoms
from quicksilver.constraints.json_schema.formula import Formula
from quicksilver.constraints.json_schema.references import Contents, Place
from quicksilver.errors import UnsupportedConstraintError

if TYPE_CHECKING:
    from quicksilver.constraints.json_schema.reading import Reader

_MAX_CASES = 64
_MAX_NESTING = 50


@dataclass(frozen=True)
class _Seen:
    """What keywords have looked at."""

    keys: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    has_all_properties: bool = False
    prefix: int = 0
    has_all_items: bool = False
    contained: tuple[Formula, ...] = ()

    def __or__(self, other: "_Seen") -> "_Seen":
        return _Seen(
            self.keys | other.keys,
            self.patterns | other.patterns,
            self.has_all_properties or other.has_all_properties,
            max(self.prefix, other.prefix),
            self.has_all_items or other.has_all_items,
            self.contained + other.contained,
        )


_Case = tuple[Formula, _Seen]
"""A condition and what was looked at where it holds. The conditions of a list exclude each other."""


def unevaluated_properties(reader: "Reader", place: Place, value: Contents) -> Formula:
    inner = reader.schema(place.inner(value))
    algebra = reader.algebra
    return algebra.any_of(
        condition
        if seen.has_all_properties
        else algebra.all_of([condition, reader.others(seen.keys, seen.patterns, inner)])
        for condition, seen in _cases(reader, place, "unevaluatedProperties")
    )


def unevaluated_items(reader: "Reader", place: Place, value: Contents) -> Formula:
    inner = reader.schema(place.inner(value))
    algebra = reader.algebra
    found = []
    for condition, seen in _cases(reader, place, "unevaluatedItems"):
        rest = algebra.true if seen.has_all_items else algebra.any_of([inner, *seen.contained])
        items = algebra.literal(atoms.Items((algebra.true,) * seen.prefix, rest))
        found.append(algebra.all_of([condition, items]))
    return algebra.any_of(found)


def _cases(reader: "Reader", place: Place, keyword: str, nesting: int = 0) -> list[_Case]:
    """What the keywords of a schema look at; ``keyword`` itself left out at the top."""
    contents = place.contents
    if isinstance(contents, bool):
        return [(reader.algebra.true, _Seen())]
    if nesting > _MAX_NESTING:
        raise UnsupportedConstraintError(f"{keyword} is not supported where schemas refer to themselves")
    if place.is_draft_7 and "$ref" in contents:
        contents = {"$ref": contents["$ref"]}
    factors = [[(reader.algebra.true, _own(reader, place, contents, keyword if nesting == 0 else None))]]
    for name in ("$ref", "$dynamicRef"):
        if name in contents:
            factors.append(_cases(reader, place.target(name, contents[name]), keyword, nesting + 1))
    for each in contents.get("allOf", ()):
        factors.append(_cases(reader, place.inner(each), keyword, nesting + 1))
    for condition, inner in _branches(reader, place, contents):
        factors.append(_conditional(reader, condition, _cases(reader, inner, keyword, nesting + 1)))
    return _combined(reader, factors, keyword)


def _branches(reader: "Reader", place: Place, contents: dict[str, Any]) -> Iterable[tuple[Formula, Place]]:
    """Schemas that count only under a condition."""
    for name in ("anyOf", "oneOf"):
        for each in contents.get(name, ()):
            inner = place.inner(each)
            yield reader.schema(inner), inner
    if "if" in contents:
        inner = place.inner(contents["if"])
        holds = reader.schema(inner)
        yield holds, inner
        for name, condition in (("then", holds), ("else", reader.algebra.negation(holds))):
            if name in contents:
                yield condition, place.inner(contents[name])
    for key, each in contents.get("dependentSchemas", {}).items():
        yield reader.has(key), place.inner(each)


def _conditional(reader: "Reader", condition: Formula, cases: list[_Case]) -> list[_Case]:
    if all(seen == _Seen() for _, seen in cases):
        return [(reader.algebra.true, _Seen())]
    holding = [(reader.algebra.all_of([condition, each]), seen) for each, seen in cases]
    return [*holding, (reader.algebra.negation(condition), _Seen())]


def _combined(reader: "Reader", factors: list[list[_Case]], keyword: str) -> list[_Case]:
    found: list[_Case] = [(reader.algebra.true, _Seen())]
    for factor in factors:
        found = [
            (condition, first | second)
            for (one, first), (other, second) in product(found, factor)
            if (condition := reader.algebra.all_of([one, other])) is not reader.algebra.false
        ]
        if len(found) > _MAX_CASES:
            raise UnsupportedConstraintError(
                f"{keyword} is not supported over more than {_MAX_CASES} cases of branches"
            )
    return found


def _own(reader: "Reader", place: Place, contents: dict[str, Any], left_out: str | None) -> _Seen:
    """What the keywords of a schema look at in every case."""
    has = {name: name in contents and name != left_out for name in ("unevaluatedProperties", "unevaluatedItems")}
    contained = () if "contains" not in contents else (reader.schema(place.inner(contents["contains"])),)
    items = contents.get("items")
    return _Seen(
        keys=frozenset(contents.get("properties", ())),
        patterns=frozenset(contents.get("patternProperties", ())),
        has_all_properties="additionalProperties" in contents or has["unevaluatedProperties"],
        prefix=len(contents.get("prefixItems", ())),
        has_all_items=items is not None or has["unevaluatedItems"],
        contained=contained,
    )
