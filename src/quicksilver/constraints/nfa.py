"""Expressions as nondeterministic automata over bytes and special tokens.

Built backwards, each part before what follows it (continuation-passing): a rule that calls itself at its end finds
the state that it already made, and is a loop.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quicksilver.constraints.dfa import Dfa
from quicksilver.constraints.expression import (
    Alternatives,
    Characters,
    Difference,
    Expression,
    Intersection,
    Isolated,
    Literal,
    Repeat,
    Rule,
    Sequence,
    Special,
    TextEnd,
    TextStart,
)
from quicksilver.constraints.limits import Meter
from quicksilver.constraints.utf8 import Fragment, fragment_of
from quicksilver.errors import ConfigError

# An automaton's states before they are made deterministic: most of them vanish.
_STATES_PER_STATE = 20


@dataclass(frozen=True, eq=False)
class Scope:
    """Where in the nesting of rules a part stands."""

    ends_at: int = -1
    """The state behind the rule whose body this is: a call that goes there is at the rule's end."""
    pending: Mapping[Rule, int] = field(default_factory=dict)
    """How often each rule waits for another to return."""
    chain: frozenset[Rule] = frozenset()
    """The rules that end where this one ends."""


class Nfa:
    """States by number; ``final`` accepts."""

    def __init__(
        self, depth: int, meter: Meter, symbol_of: Callable[[str], int], compiled: Callable[[Expression], Dfa]
    ) -> None:
        """Begin with the accepting state alone.

        Args:
            depth: how often a rule may be nested in itself.
            meter: limits.
            symbol_of: number of a special token, from 256 on.
            compiled: automaton of an expression that must be compiled on its own.
        """
        self.edges: list[list[tuple[int, int, int]]] = []
        """Per state: first and last symbol, state behind them."""
        self.empty: list[list[int]] = []
        """Per state: states reached without a symbol,"""
        self.at_start: dict[int, list[int]] = {}
        """only where nothing was read,"""
        self.at_end: dict[int, list[int]] = {}
        """and only where nothing is left."""
        self.is_clipped = False
        self._depth, self._meter, self._symbol_of, self._compiled = depth, meter, symbol_of, compiled
        self._max_states = _STATES_PER_STATE * meter.limits.max_states
        self._known: dict[object, int] = {}
        self._waiting: list[tuple[int, Rule, int, Scope]] = []
        self.dead, self.final = self._state(), self._state()

    def build(self, expression: Expression) -> int:
        """The state where the expression begins, before ``final``."""
        start = self._part(expression, self.final, Scope(self.final))
        # Bodies of rules wait in a list, so that long chains of rules do not nest in Python.
        while self._waiting:
            state, rule, after, scope = self._waiting.pop()
            self.empty[state].append(self._part(rule.body, after, scope))
        return start

    def _state(self) -> int:
        self.edges.append([])
        self.empty.append([])
        count = len(self.edges)
        if count % _STATES_PER_STATE == 0:
            self._meter.states(count // _STATES_PER_STATE, "before determinisation")
        return count - 1

    def _part(self, part: Expression, after: int, scope: Scope) -> int:
        """The state from which ``part`` leads to ``after``."""
        match part:
            case Characters():
                return self._fragment(part, fragment_of(part.ranges), after)
            case Literal(text):
                return self._bytes(_encoded(text), after)
            case Sequence(parts):
                for each in reversed(parts):
                    after = self._part(each, after, scope)
                return after
            case Alternatives(options):
                return self._union([self._part(each, after, scope) for each in options])
            case Repeat():
                return self._repeat(part, after, scope)
            case Rule():
                return self._rule(part, after, scope)
            case Intersection() | Difference() | Isolated():
                return self._embedded(part, after)
            case _:
                return self._without_bytes(part, after)

    def _without_bytes(self, part: Expression, after: int) -> int:
        match part:
            case Special(name):
                symbol = self._symbol_of(name)
                return self._step(symbol, symbol, after)
            case TextStart() | TextEnd():
                state = self._state()
                (self.at_start if isinstance(part, TextStart) else self.at_end)[state] = [after]
                return state
            case _:
                raise TypeError(f"{type(part).__name__} is no expression")

    def _step(self, low: int, high: int, after: int) -> int:
        state = self._state()
        self.edges[state].append((low, high, after))
        return state

    def _bytes(self, data: bytes, after: int) -> int:
        for byte in reversed(data):
            key = (byte, after)
            if key not in self._known:
                self._known[key] = self._step(byte, byte, after)
            after = self._known[key]
        return after

    def _union(self, states: list[int]) -> int:
        if len(states) == 1:
            return states[0]
        union = self._state()
        self.empty[union].extend(states)
        return union

    def _fragment(self, part: Expression, fragment: Fragment, after: int) -> int:
        key = (part, after)
        if key not in self._known:
            base = len(self.edges)
            for _ in fragment:
                self._state()
            for offset, edges in enumerate(fragment):
                self.edges[base + offset] = [(low, high, after if to < 0 else base + to) for low, high, to in edges]
            self._known[key] = base if fragment else self.dead
        return self._known[key]

    def _repeat(self, repeat: Repeat, after: int, scope: Scope) -> int:
        at = after
        if repeat.most is None:
            at = self._state()
            self.empty[at].extend((self._part(repeat.part, at, scope), after))
        else:
            for _ in range(repeat.most - repeat.least):
                one_more = self._part(repeat.part, at, scope)
                at = self._union([one_more, after])
        for _ in range(repeat.least):
            before = self._part(repeat.part, at, scope)
            if before == at:
                break  # the empty text, however often
            at = before
        return at

    def _rule(self, rule: Rule, after: int, scope: Scope) -> int:
        pending, chain = scope.pending, scope.chain
        if after != scope.ends_at:
            pending = {**pending, **{each: pending.get(each, 0) + 1 for each in chain}}
            chain = frozenset()
        if pending.get(rule, 0) > self._depth:
            self.is_clipped = True
            return self.dead
        if rule.is_level:
            chain = chain | {rule}
        key = (rule, after, chain, frozenset(pending.items()))
        if key not in self._known:
            state = self._known[key] = self._state()
            self._waiting.append((state, rule, after, Scope(after, pending, chain)))
        return self._known[key]

    def _embedded(self, part: Expression, after: int) -> int:
        key = (part, after)
        if key not in self._known:
            dfa = self._compiled(part)
            base = len(self.edges)
            for state, edges in enumerate(dfa.intervals):
                self._state()
                self.edges[base + state] = [(low, high, base + to) for low, high, to in edges]
                if dfa.is_accepting[state]:
                    self.empty[base + state].append(after)
            self._known[key] = base
        return self._known[key]


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"half of a surrogate pair stands in {text!r}, which is no text of Unicode") from error
