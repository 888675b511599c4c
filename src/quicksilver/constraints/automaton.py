"""A compiled constraint: which tokens may follow which, by classes of tokens that behave alike in every state."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

NO_CLASS = -1
"""Class of tokens that may stand nowhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenAutomaton:
    """A deterministic automaton over tokens. Legend: S states, C classes, E edges, V vocabulary.

    From every state an accepting one can be reached, so a text that has not left the automaton can always be finished.
    The end of a text is a token like any other: accepting states lead by eos to ``end``, and ``end`` to itself, which
    fills a last block.
    """

    token_class: Int[np.ndarray, " V"]
    """int32; ``NO_CLASS`` for tokens without an edge."""
    edge_from: Int[np.ndarray, " E"]
    """int32. Edges are sorted by ``edge_to``, then ``edge_from``, then ``edge_class``."""
    edge_class: Int[np.ndarray, " E"]
    edge_to: Int[np.ndarray, " E"]
    start: int
    end: int
    """The only state behind eos."""
    is_accepting: Bool[np.ndarray, " S"]
    """Where the text may end; ``end`` itself is accepting."""
    distance: Int[np.ndarray, " S"]
    """int32: fewest tokens to ``end``, eos included; 0 at ``end``."""
    is_clipped: bool
    """Recursion was cut at a depth, so some texts that the constraint allows are not in the automaton."""
    fingerprint: str
    """Of constraint, tokenizer and options."""

    @property
    def num_states(self) -> int:
        return len(self.distance)

    @property
    def num_classes(self) -> int:
        return int(self.token_class.max()) + 1

    @cached_property
    def _next(self) -> dict[tuple[int, int], int]:
        edges = zip(self.edge_from.tolist(), self.edge_class.tolist(), self.edge_to.tolist(), strict=True)
        return {(state, kind): to for state, kind, to in edges}

    def step(self, state: int, token_id: int) -> int | None:
        """The state behind a token; None: it may not stand here."""
        return self._next.get((state, int(self.token_class[token_id])))

    def walk(self, token_ids: Iterable[int], state: int | None = None) -> int | None:
        """The state behind tokens, from ``start`` unless told otherwise; None: they leave the automaton."""
        at: int | None = self.start if state is None else state
        for token_id in token_ids:
            at = None if at is None else self.step(at, token_id)
        return at
