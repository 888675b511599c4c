"""What one element or property may be, told apart by what it leaves of the rest."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from quicksilver.constraints.json_schema.atoms import Atom, Name, Value
from quicksilver.constraints.json_schema.formula import Algebra, Formula
from quicksilver.errors import ConstraintTooLargeError

MAX_CASES = 2_000

Member = TypeVar("Member")
Cases = dict[Formula, Formula]
"""By what is left: of what the element satisfies one."""


def cases_of(
    algebra: Algebra, formula: Formula, kind: type[Value] | type[Name], is_possible: Callable[[Formula], bool]
) -> Cases:
    """Split a formula in which an element's own assertions stand beside those about the rest.

    Shannon's expansion, one assertion after the other; cases that leave the same are joined at once, those that no
    element satisfies are left out.

    Raises:
        ConstraintTooLargeError: there are too many.
    """
    cases: Cases = {formula: algebra.true}
    while True:
        atom = next((found for left in cases for found, _ in left.literals() if isinstance(found, kind)), None)
        if atom is None:
            return cases
        split: Cases = {}
        for left, condition in cases.items():
            for after, narrowed in _halves(algebra, left, condition, atom):
                if after is not algebra.false and is_possible(narrowed):
                    split[after] = algebra.any_of([split.get(after, algebra.false), narrowed])
        if len(split) > MAX_CASES:
            raise ConstraintTooLargeError(
                f"one element or property has more than {MAX_CASES} cases: fewer branches help"
            )
        cases = split


def _halves(
    algebra: Algebra, left: Formula, condition: Formula, atom: Value | Name
) -> Iterable[tuple[Formula, Formula]]:
    if not any(found == atom for found, _ in left.literals()):
        yield left, condition
        return
    for value, own in ((True, atom.formula), (False, algebra.negation(atom.formula))):
        constant = algebra.constant(value)
        after = algebra.replace(left, lambda each, constant=constant: constant if each == atom else None)
        yield after, algebra.all_of([condition, own])


def finite_members(
    algebra: Algebra,
    formula: Formula,
    value_of: Callable[[Atom], Member | None],
    satisfies: Callable[[Member, Atom, bool], bool],
) -> list[Member] | None:
    """The values of which a formula is true, if some of its assertions of equality bound them; else None."""
    candidates = _candidates(formula, value_of)
    if candidates is None:
        return None

    def is_member(value: Member) -> bool:
        return algebra.evaluate(formula, lambda atom, sign: satisfies(value, atom, sign))

    return [value for value in candidates if is_member(value)]


def _candidates(formula: Formula, value_of: Callable[[Atom], Member | None]) -> dict[Member, None] | None:
    if formula.atom is not None:
        value = value_of(formula.atom)
        return {value: None} if value is not None and formula.operator == "is" else None
    found = [_candidates(part, value_of) for part in formula.parts]
    bounded = [each for each in found if each is not None]
    if formula.operator == "and":
        return min(bounded, key=len, default=None)
    if formula.operator == "or" or formula.operator == "false":
        return {value: None for each in bounded for value in each} if len(bounded) == len(found) else None
    return None
