"""Distances in graphs given as arrays of edges."""

import numpy as np
from jaxtyping import Bool, Int

UNREACHED = np.iinfo(np.int32).max


class Successors:
    """The edges of a graph, sorted by where they begin."""

    def __init__(self, edge_from: Int[np.ndarray, " E"], edge_to: Int[np.ndarray, " E"], num_states: int) -> None:
        order = np.argsort(edge_from, kind="stable")
        self._targets = edge_to[order]
        self._begins = np.searchsorted(edge_from[order], np.arange(num_states + 1))

    def of(self, states: Int[np.ndarray, " N"]) -> Int[np.ndarray, " M"]:
        """Where the edges of states end, with repetitions."""
        lengths = self._begins[states + 1] - self._begins[states]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        return self._targets[np.arange(total) + np.repeat(self._begins[states] - (ends - lengths), lengths)]


def distances(
    edge_from: Int[np.ndarray, " E"], edge_to: Int[np.ndarray, " E"], is_source: Bool[np.ndarray, " S"]
) -> Int[np.ndarray, " S"]:
    """Fewest edges to each state from a source, along the edges; int32, ``UNREACHED`` where there is no way."""
    successors = Successors(edge_from, edge_to, len(is_source))
    found = np.full(len(is_source), UNREACHED, dtype=np.int32)
    frontier = np.flatnonzero(is_source)
    steps = 0
    while len(frontier):
        found[frontier] = steps
        reached = successors.of(frontier)
        frontier = np.unique(reached[found[reached] == UNREACHED])
        steps += 1
    return found
