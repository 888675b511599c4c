"""Objects: named properties in a fixed order, then others; a state is a formula about what is still to come."""

from typing import TYPE_CHECKING

from quicksilver.constraints.expression import Alternatives, Expression, Literal, Rule, Sequence
from quicksilver.constraints.json_schema.atoms import (
    Atom,
    Matches,
    Name,
    Names,
    NumProperties,
    Others,
    PatternProperty,
    Property,
    Required,
    StringIs,
    Value,
)
from quicksilver.constraints.json_schema.cases import Cases, cases_of
from quicksilver.constraints.json_schema.formula import Formula
from quicksilver.constraints.json_schema.strings import json_text, quoted
from quicksilver.errors import UnsupportedConstraintError

if TYPE_CHECKING:
    from quicksilver.constraints.json_schema.writing import Writer

_State = tuple[int, Formula, bool]
"""How many of the named properties are behind, what is to hold of the others, whether none was written yet."""


class ObjectWriter:
    """The texts of one set of objects."""

    def __init__(self, writer: "Writer", keys: list[str]) -> None:
        """Begin.

        Args:
            writer: of the values.
            keys: the named properties in their order.
        """
        self._writer = writer
        self._algebra = writer.algebra
        self._keys = keys
        self._states: dict[_State, Rule] = {}
        self._waiting: list[_State] = []

    def expression(self, formula: Formula) -> Expression:
        """Objects of which a formula is true."""
        is_stated = any(isinstance(atom, Others | PatternProperty) for atom, _ in formula.literals())
        self._is_closed = self._writer.is_strict and bool(self._keys) and not is_stated
        body = self._state(0, formula, True)
        while self._waiting:
            state = self._waiting.pop()
            place, left, is_first = state
            options = self._named(left, place, is_first) if place < len(self._keys) else self._unnamed(left, is_first)
            self._states[state].body = Alternatives(tuple(options))
        return Sequence((Literal("{"), body, Literal("}")))

    def _state(self, place: int, formula: Formula, is_first: bool) -> Expression:
        state = (place, formula, is_first)
        if state not in self._states:
            self._writer.compiler.meter.states(len(self._states), "an object")
            self._states[state] = Rule(f"object {formula.number} from {place}", is_level=False)
            self._waiting.append(state)
        return self._states[state]

    def _property(self, is_first: bool, name: Expression, value: Formula, place: int, after: Formula) -> Expression:
        form = self._writer.form
        between = Literal("" if is_first else form.between)
        rest = self._state(place, after, False)
        return Sequence((between, name, Literal(form.colon), self._writer.value(value), rest))

    def _named(self, formula: Formula, place: int, is_first: bool) -> list[Expression]:
        """With the next of the named properties, or without it."""
        key, algebra = self._keys[place], self._algebra
        options = []
        absent = algebra.replace(formula, lambda atom: self._without(atom, key))
        if absent is not algebra.false:
            options.append(self._state(place + 1, absent, is_first))
        name = Literal(json_text(key))
        for after, value in self._cases(algebra.replace(formula, lambda atom: self._after_named(atom, key))).items():
            options.append(self._property(is_first, name, value, place + 1, after))
        return options

    def _cases(self, formula: Formula) -> Cases:
        return cases_of(self._algebra, formula, Value, self._writer.is_possible)

    def _without(self, atom: Atom, key: str) -> Formula | None:
        match atom:
            case Property(named, _) if named == key:
                return self._algebra.true
            case Required(named) if named == key:
                return self._algebra.false
            case _:
                return None

    def _after_named(self, atom: Atom, key: str) -> Formula | None:
        """What an assertion says of a named property and of those behind it."""
        algebra = self._algebra
        match atom:
            case Property(named, inner):
                return algebra.literal(Value(inner)) if named == key else None
            case Required(named):
                return algebra.true if named == key else None
            case PatternProperty(pattern, inner):
                return self._and_still(atom, inner) if self._matches(pattern, key) else None
            case Others(keys, patterns, inner):
                is_other = key not in keys and not any(self._matches(pattern, key) for pattern in patterns)
                return self._and_still(atom, inner) if is_other else None
            case Names(inner):
                return algebra.literal(atom) if self._writer.is_string_of(inner, key) else algebra.false
            case _:
                return self._counted(atom)

    def _and_still(self, atom: Atom, inner: Formula) -> Formula:
        return self._algebra.all_of([self._algebra.literal(Value(inner)), self._algebra.literal(atom)])

    def _counted(self, atom: Atom) -> Formula:
        if not isinstance(atom, NumProperties):
            raise TypeError(f"{atom} is not of objects")
        if atom.most == 0:
            return self._algebra.false
        most = None if atom.most is None else atom.most - 1
        if atom.least <= 1 and most is None:
            return self._algebra.true
        return self._algebra.literal(NumProperties(max(0, atom.least - 1), most))

    def _matches(self, pattern: str, key: str) -> bool:
        return self._writer.string_satisfies(key, Matches(pattern), True)

    def _unnamed(self, formula: Formula, is_first: bool) -> list[Expression]:
        """The end, or one more property that is not named."""
        options: list[Expression] = [Literal("")] if self._may_end(formula) else []
        if self._is_closed:
            return options
        split = cases_of(
            self._algebra, self._algebra.replace(formula, self._after_unnamed), Name, self._writer.is_possible_name
        )
        for both, name in split.items():
            names = self._unnamed_names(name)
            if self._writer.compiler.dfa(names).is_empty:
                continue
            for after, value in self._cases(both).items():
                self._require_countable(formula)
                options.append(self._property(is_first, quoted(names), value, len(self._keys), after))
        return options

    def _unnamed_names(self, name: Formula) -> Expression:
        named = self._algebra.any_of(self._algebra.literal(StringIs(key)) for key in self._keys)
        return self._writer.strings(self._algebra.all_of([name, self._algebra.negation(named)]))

    def _after_unnamed(self, atom: Atom) -> Formula | None:
        """What an assertion says of a property whose name is not known yet, and of those behind it."""
        algebra = self._algebra
        match atom:
            case PatternProperty(pattern, inner):
                does_not_match = algebra.negation(self._name_matches(pattern))
                own = algebra.any_of([does_not_match, algebra.literal(Value(inner))])
                return algebra.all_of([own, algebra.literal(atom)])
            case Others(_, patterns, inner):
                matched = [self._name_matches(pattern) for pattern in sorted(patterns)]
                own = algebra.any_of([*matched, algebra.literal(Value(inner))])
                return algebra.all_of([own, algebra.literal(atom)])
            case Names(inner):
                return algebra.all_of(
                    [algebra.literal(Name(self._writer.restrict(inner, "string"))), algebra.literal(atom)]
                )
            case _:
                return self._counted(atom)

    def _name_matches(self, pattern: str) -> Formula:
        return self._algebra.literal(Name(self._algebra.literal(Matches(pattern))))

    def _may_end(self, formula: Formula) -> bool:
        def holds(atom: Atom, sign: bool) -> bool:
            return (not isinstance(atom, NumProperties) or atom.least <= 0) == sign

        return self._algebra.evaluate(formula, holds)

    def _require_countable(self, formula: Formula) -> None:
        """Raise where a name that is written twice would count as two, or would hide what came first.

        Texts cannot be kept from repeating a name out of infinitely many; readers take the last.
        """
        for atom, sign in formula.literals():
            if isinstance(atom, NumProperties) and (atom.least if sign else (atom.most or 0) + 1) > 1:
                what = "minProperties" if sign else "a negated maxProperties"
                raise UnsupportedConstraintError(
                    f"{what} is not supported where names are not listed: a name that is repeated would count twice"
                )
            decides = isinstance(atom, Others | PatternProperty) and atom.formula.operator not in ("true", "false")
            if decides and not sign:
                raise UnsupportedConstraintError(
                    "additionalProperties or patternProperties in a not, oneOf or if: the value that decides could be "
                    "hidden by another of the same name"
                )
