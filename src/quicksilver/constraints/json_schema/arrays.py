"""Arrays: a state is a formula about the elements that are still to come."""

from typing import TYPE_CHECKING

from quicksilver.constraints.expression import Alternatives, Expression, Literal, Rule, Sequence
from quicksilver.constraints.json_schema.atoms import Atom, Contains, Items, NumItems, Unique, Value
from quicksilver.constraints.json_schema.cases import cases_of
from quicksilver.constraints.json_schema.formula import Formula
from quicksilver.errors import UnsupportedConstraintError

if TYPE_CHECKING:
    from quicksilver.constraints.json_schema.writing import Writer

MAX_UNIQUE = 10
"""Values that unique elements can have: a state knows which of them stood in front."""


class ArrayWriter:
    """The texts of one set of arrays."""

    def __init__(self, writer: "Writer") -> None:
        self._writer = writer
        self._algebra = writer.algebra
        self._states: dict[Formula, Rule] = {}
        self._waiting: list[Formula] = []

    def expression(self, formula: Formula) -> Expression:
        """Arrays of which a formula is true."""
        formula = self._with_unique_values(formula)
        empty = [Literal("")] if self._may_end(formula) else []
        body = Alternatives((*empty, *self._elements(formula)))
        while self._waiting:
            after = self._waiting.pop()
            between = Literal(self._writer.form.between)
            ends = [Literal("")] if self._may_end(after) else []
            more = Sequence((between, Alternatives(tuple(self._elements(after)))))
            self._states[after].body = Alternatives((*ends, more))
        return Sequence((Literal("["), body, Literal("]")))

    def _elements(self, formula: Formula) -> list[Expression]:
        """One element and what follows it."""
        after_element = self._algebra.replace(formula, self._after_element)
        cases = cases_of(self._algebra, after_element, Value, self._writer.is_possible)
        return [Sequence((self._writer.value(value), self._state(after))) for after, value in cases.items()]

    def _state(self, formula: Formula) -> Rule:
        if formula not in self._states:
            self._writer.compiler.meter.states(len(self._states), "an array")
            self._states[formula] = Rule(f"array {formula.number}", is_level=False)
            self._waiting.append(formula)
        return self._states[formula]

    def _after_element(self, atom: Atom) -> Formula | None:
        """What an assertion says of one element and of those behind it."""
        algebra = self._algebra
        match atom:
            case Items(prefix, rest):
                own = algebra.literal(Value(prefix[0] if prefix else rest))
                return algebra.all_of([own, algebra.literal(Items(prefix[1:], rest))])
            case NumItems(least, most):
                return algebra.false if most == 0 else algebra.literal(NumItems(*_less(least, most)))
            case Contains(inner, least, most):
                own = algebra.literal(Value(inner))
                one_more = algebra.false if most == 0 else algebra.literal(Contains(inner, *_less(least, most)))
                others = algebra.any_of([own, algebra.literal(atom)])
                return algebra.all_of([algebra.any_of([algebra.negation(own), one_more]), others])
            case Unique(values, seen):
                return self._after_unique(values or (), seen)
            case _:
                raise TypeError(f"{atom} is not of arrays")

    def _after_unique(self, values: tuple[Formula, ...], seen: frozenset[int]) -> Formula:
        algebra = self._algebra
        return algebra.any_of(
            algebra.all_of([algebra.literal(Value(value)), algebra.literal(Unique(values, seen | {index}))])
            for index, value in enumerate(values)
            if index not in seen
        )

    def _may_end(self, formula: Formula) -> bool:
        def holds(atom: Atom, sign: bool) -> bool:
            return (not isinstance(atom, NumItems | Contains) or atom.least <= 0) == sign

        return self._algebra.evaluate(formula, holds)

    def _with_unique_values(self, formula: Formula) -> Formula:
        if not any(isinstance(atom, Unique) for atom, _ in formula.literals()):
            return formula
        parts = formula.parts if formula.operator == "and" else (formula,)
        conditions = [part.atom for part in parts if part.operator == "is"]
        if any(isinstance(atom, NumItems) and atom.most is not None and atom.most <= 1 for atom in conditions):
            return self._algebra.replace(formula, lambda atom: self._algebra.true if isinstance(atom, Unique) else None)
        values = [
            found for atom in conditions if isinstance(atom, Items) and (found := self._values_of(atom)) is not None
        ]
        if not values or len(values[0]) > MAX_UNIQUE:
            raise UnsupportedConstraintError(
                f"uniqueItems is supported only where items are one of at most {MAX_UNIQUE} values (enum, const)"
            )
        unique = self._algebra.literal(Unique(tuple(values[0])))
        return self._algebra.replace(formula, lambda atom: unique if isinstance(atom, Unique) else None)

    def _values_of(self, items: Items) -> list[Formula] | None:
        found: dict[Formula, None] = {}
        for each in (*items.prefix, items.rest):
            values = self._writer.finite_values(each)
            if values is None:
                return None
            found |= dict.fromkeys(values)
        return list(found)


def _less(least: int, most: int | None) -> tuple[int, int | None]:
    return max(0, least - 1), None if most is None else most - 1
