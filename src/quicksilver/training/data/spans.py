"""Spans of a piece that a model is to write anew: nodes of its syntax tree, lines, ends of lines, any tokens."""

from collections.abc import Callable
from functools import cached_property

import numpy as np


def line_starts(token_ids: np.ndarray, newline_id: int) -> np.ndarray:
    """Places of the tokens that begin a line."""
    starts = np.concatenate([[0], np.flatnonzero(token_ids == newline_id) + 1])
    return starts[starts < len(token_ids)]


class Spans:
    """Draws spans of one piece; it is parsed at most once, and only when a node is drawn."""

    def __init__(
        self,
        token_ids: np.ndarray,
        newline_id: int,
        ast_rate: float,
        find_nodes: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Of at least two tokens.

        Args:
            token_ids: the piece.
            newline_id: the token that ends a line.
            ast_rate: share of spans that are nodes of the syntax tree.
            find_nodes: their spans [start, stop), int64 [N, 2], as ``SyntaxSpans``.
        """
        self._token_ids = token_ids
        self._newline_id = newline_id
        self._ast_rate = ast_rate
        self._find_nodes = find_nodes
        self._line_starts = line_starts(token_ids, newline_id)

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """First token and the one behind the last."""
        if rng.random() < self._ast_rate and self._nodes_by_size:
            # Every size alike, or most would be single names.
            nodes = self._nodes_by_size[int(rng.integers(len(self._nodes_by_size)))]
            low, high = nodes[int(rng.integers(len(nodes)))].tolist()
            return low, high
        length, starts = len(self._token_ids), self._line_starts
        at = int(rng.integers(len(starts)))
        kind = rng.random()
        if kind < 0.6:  # whole lines, mostly one
            last = min(at + int(rng.choice([1, 2, 3, 4], p=[0.7, 0.15, 0.1, 0.05])), len(starts))
            return int(starts[at]), int(starts[last]) if last < len(starts) else length
        low = int(rng.integers(length - 1))
        if kind < 0.8:  # the rest of a line
            ends = np.flatnonzero(self._token_ids[low:] == self._newline_id)
            return low, low + max(int(ends[0]), 1) if len(ends) else length
        return low, min(low + int(rng.integers(1, 25)), length)

    @cached_property
    def _nodes_by_size(self) -> list[np.ndarray]:
        """The nodes of 1 token, of 2 or 3, of 4 to 7 and so on; no group is empty."""
        nodes = self._find_nodes(self._token_ids)
        groups = np.log2(nodes[:, 1] - nodes[:, 0]).astype(np.int64)
        return [nodes[groups == group] for group in np.unique(groups)]
