"""Boolean formulas over what a schema asserts of one value.

Formulas are in negation normal form, and equal ones are one object within an ``Algebra``, so that a schema that calls
itself comes back to a formula that is known.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from quicksilver.constraints.json_schema.atoms import Atom

Operator = Literal["true", "false", "is", "not", "and", "or"]


@dataclass(frozen=True, eq=False)
class Formula:
    """Made by an ``Algebra`` only; compared by identity."""

    number: int
    """In the order in which they were made."""
    operator: Operator
    parts: tuple["Formula", ...] = ()
    atom: Atom | None = None

    def literals(self) -> Iterator[tuple[Atom, bool]]:
        """Atoms and whether they hold (True) or not, from left to right, with repetitions."""
        if self.atom is not None:
            yield self.atom, self.operator == "is"
        for part in self.parts:
            yield from part.literals()

    def __repr__(self) -> str:
        if self.atom is not None:
            return f"{'' if self.operator == 'is' else 'not '}{self.atom}"
        return f" {self.operator} ".join(map(repr, self.parts)).join("()") if self.parts else self.operator


class Algebra:
    """Where formulas are made."""

    def __init__(self) -> None:
        self._known: dict[object, Formula] = {}
        self._negations: dict[Formula, Formula] = {}
        self.true = self._made("true")
        self.false = self._made("false")

    def _made(self, operator: Operator, parts: tuple[Formula, ...] = (), atom: Atom | None = None) -> Formula:
        key = (operator, parts, atom)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Formula(len(self._known), operator, parts, atom)
        return found

    def constant(self, value: bool) -> Formula:
        return self.true if value else self.false

    def literal(self, atom: Atom, holds: bool = True) -> Formula:
        return self._made("is" if holds else "not", atom=atom)

    def all_of(self, parts: Iterable[Formula]) -> Formula:
        return self._joined("and", parts, self.true, self.false)

    def any_of(self, parts: Iterable[Formula]) -> Formula:
        return self._joined("or", parts, self.false, self.true)

    def negation(self, formula: Formula) -> Formula:
        found = self._negations.get(formula)
        if found is None:
            found = self._negations[formula] = self._negated(formula)
            self._negations[found] = formula
        return found

    def _negated(self, formula: Formula) -> Formula:
        match formula.operator:
            case "true" | "false":
                return self.constant(formula.operator == "false")
            case "is" | "not":
                return self._made("not" if formula.operator == "is" else "is", atom=formula.atom)
            case "and":
                return self.any_of(map(self.negation, formula.parts))
            case "or":
                return self.all_of(map(self.negation, formula.parts))

    def _joined(self, operator: Operator, parts: Iterable[Formula], neutral: Formula, absorbing: Formula) -> Formula:
        found: set[Formula] = set()
        for part in parts:
            found.update(part.parts if part.operator == operator else (part,))
        found.discard(neutral)
        if absorbing in found or any(part.atom is not None and self.negation(part) in found for part in found):
            return absorbing
        # Of `A or (A and B)`, and of `A and (A or B)`, A is left.
        kept = [part for part in found if not any(each in found for each in part.parts)]
        if len(kept) < 2:
            return kept[0] if kept else neutral
        return self._made(operator, tuple(sorted(kept, key=lambda part: part.number)))

    def replace(self, formula: Formula, change: Callable[[Atom], Formula | None]) -> Formula:
        """The formula with atoms replaced; None keeps an atom."""
        if formula.atom is not None:
            changed = change(formula.atom)
            if changed is None:
                return formula
            return changed if formula.operator == "is" else self.negation(changed)
        if formula.operator == "and":
            return self.all_of(self.replace(part, change) for part in formula.parts)
        if formula.operator == "or":
            return self.any_of(self.replace(part, change) for part in formula.parts)
        return formula

    def evaluate(self, formula: Formula, holds: Callable[[Atom, bool], bool]) -> bool:
        """Whether it is true, where ``holds(atom, sign)`` says whether a literal is."""
        match formula.operator:
            case "is" | "not":
                if formula.atom is None:
                    raise TypeError("a literal without an atom")
                return holds(formula.atom, formula.operator == "is")
            case "and" | "true":
                return all(self.evaluate(part, holds) for part in formula.parts)
            case "or" | "false":
                return any(self.evaluate(part, holds) for part in formula.parts)
