"""Subset construction: from sets of states of a nondeterministic automaton to the states of a deterministic one."""

from collections.abc import Iterable
from itertools import pairwise

from quicksilver.constraints.dfa import DEAD, Dfa, from_rows
from quicksilver.constraints.limits import Meter
from quicksilver.constraints.nfa import Nfa

Edges = list[tuple[int, int, int]]


def determinise(nfa: Nfa, start: int, num_symbols: int, meter: Meter) -> Dfa:
    """The smallest deterministic automaton of the texts that lead from ``start`` to the accepting state."""
    closures = _Closures(nfa)
    number: dict[frozenset[int], int] = {}
    # The start has a number of its own: only there do anchors of the start hold.
    subsets = [closures.of_start(start)]

    def number_of(subset: frozenset[int]) -> int:
        if subset not in number:
            number[subset] = len(subsets)
            subsets.append(subset)
            meter.states(len(subsets), "a part made deterministic")
        return number[subset]

    behind: dict[tuple[int, ...], int] = {}

    def target(states: tuple[int, ...]) -> int:
        if states not in behind:
            subset = frozenset().union(*map(closures.of, states))
            behind[states] = number_of(subset) if subset else DEAD
        return behind[states]

    rows: list[Edges] = []
    accepting: list[bool] = []
    while len(rows) < len(subsets):
        subset = subsets[len(rows)]
        if len(subset) == 1:
            # One state's own edges never overlap.
            (state,) = subset
            parts = [(low, high, target((to,))) for low, high, to in nfa.edges[state]]
        else:
            edges = [edge for state in subset for edge in nfa.edges[state]]
            parts = [(low, high, target(states)) for low, high, states in _cut(edges)]
        rows.append([part for part in parts if part[2] != DEAD])
        accepting.append(any(map(closures.accepts, subset)) if accepting else closures.accepts_start(start))
    return from_rows(rows, accepting, num_symbols, is_clipped=nfa.is_clipped)


def _cut(edges: Edges) -> Iterable[tuple[int, int, tuple[int, ...]]]:
    """Overlapping intervals as intervals that do not overlap, each with the states behind it, ascending."""
    begins: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for low, high, to in edges:
        begins.setdefault(low, []).append(to)
        ends.setdefault(high + 1, []).append(to)
    active: dict[int, int] = {}
    cuts = sorted({*begins, *ends})
    for here, there in pairwise(cuts):
        for to in begins.get(here, ()):
            active[to] = active.get(to, 0) + 1
        for to in ends.get(here, ()):
            active[to] -= 1
            if not active[to]:
                del active[to]
        if active:
            yield here, there - 1, tuple(sorted(active))


class _Closures:
    """What can be reached without a symbol; of it only states that have edges, accept, or accept at the end."""

    def __init__(self, nfa: Nfa) -> None:
        self._nfa = nfa
        self._of: dict[int, frozenset[int]] = {}
        self._accepts: dict[int, bool] = {}

    def of(self, state: int) -> frozenset[int]:
        if state not in self._of:
            nfa = self._nfa
            if nfa.empty[state] or not nfa.edges[state]:
                self._of[state] = self._kept(self._reach(state, nfa.empty))
            else:
                self._of[state] = frozenset((state,))
        return self._of[state]

    def of_start(self, state: int) -> frozenset[int]:
        return self._kept(self._reach(state, self._nfa.empty, self._nfa.at_start))

    def accepts(self, state: int) -> bool:
        """Whether the text may end in a state of a closure."""
        if state not in self._nfa.at_end:
            return state == self._nfa.final
        if state not in self._accepts:
            self._accepts[state] = self._nfa.final in self._reach(state, self._nfa.empty, self._nfa.at_end)
        return self._accepts[state]

    def accepts_start(self, state: int) -> bool:
        """Whether the empty text is accepted, whose start is its end."""
        return self._nfa.final in self._reach(state, self._nfa.empty, self._nfa.at_start, self._nfa.at_end)

    def _kept(self, states: set[int]) -> frozenset[int]:
        nfa = self._nfa
        return frozenset(each for each in states if nfa.edges[each] or each == nfa.final or each in nfa.at_end)

    def _reach(self, state: int, *links: list[list[int]] | dict[int, list[int]]) -> set[int]:
        found = {state}
        waiting = [state]
        while waiting:
            at = waiting.pop()
            for link in links:
                behind = link.get(at, ()) if isinstance(link, dict) else link[at]
                for each in behind:
                    if each not in found:
                        found.add(each)
                        waiting.append(each)
        return found
