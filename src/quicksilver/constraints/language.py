"""Expressions to automata over bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from quicksilver.constraints.dfa import BYTES, Dfa, product
from quicksilver.constraints.expression import Difference, Expression, Intersection, Isolated
from quicksilver.constraints.limits import Meter
from quicksilver.constraints.nfa import Nfa
from quicksilver.constraints.subsets import determinise
from quicksilver.errors import UnsupportedConstraintError

_KEPT: dict[tuple[str | None, int], Dfa] = {}
"""Languages with a name, by name and depth: any value of JSON, and formats."""


@dataclass
class Compiler:
    """One compilation: its limits, and the parts that were compiled on their own."""

    meter: Meter
    depth: int
    """How often a rule may be nested in itself."""
    specials: list[str] = field(default_factory=list)
    """Special tokens by symbol, from 256 on."""
    _parts: dict[Expression, Dfa] = field(default_factory=dict)
    _open: set[Expression] = field(default_factory=set)

    def dfa(self, expression: Expression) -> Dfa:
        """The smallest automaton of an expression.

        Raises:
            ConstraintTooLargeError: a limit was passed.
            UnsupportedConstraintError: a rule calls itself through a product, or is cut where it must not be.
        """
        found = self._parts.get(expression)
        if found is None:
            if expression in self._open:
                raise UnsupportedConstraintError("a rule calls itself through a product of languages")
            self._open.add(expression)
            found = self._parts[expression] = self._made(expression)
            self._open.discard(expression)
        return found

    def _made(self, expression: Expression) -> Dfa:
        match expression:
            case Intersection(parts):
                return reduce(lambda left, right: product(left, right, np.logical_and, self.meter), self._all(parts))
            case Difference(base, removed):
                cut = self.dfa(removed)
                if cut.is_clipped:
                    raise UnsupportedConstraintError(
                        "what is excluded calls itself: cut at a depth, its complement would allow too much"
                    )
                return product(self.dfa(base), cut, np.greater, self.meter)
            case Isolated(part, None):
                return self._determinised(part)
            case Isolated(part, key):
                found = _KEPT.get((key, self.depth))
                if found is None:
                    found = _KEPT[key, self.depth] = self._determinised(part)
                return found
            case _:
                return self._determinised(expression)

    def _all(self, parts: Sequence[Expression]) -> list[Dfa]:
        return [self.dfa(part) for part in parts]

    def _determinised(self, expression: Expression) -> Dfa:
        nfa = Nfa(self.depth, self.meter, self._symbol, self.dfa)
        start = nfa.build(expression)
        # Embedded parts may have brought symbols of their own, so these are counted after building.
        return determinise(nfa, start, BYTES + len(self.specials), self.meter)

    def _symbol(self, name: str) -> int:
        if name not in self.specials:
            self.specials.append(name)
        return BYTES + self.specials.index(name)
