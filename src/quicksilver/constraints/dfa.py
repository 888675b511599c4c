"""Deterministic automata over bytes and special tokens: smallest form, products."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from quicksilver.constraints.graph import UNREACHED, Successors, distances
from quicksilver.constraints.limits import Meter

BYTES = 256
DEAD = -1


@dataclass(frozen=True, eq=False)
class Dfa:
    """Legend: S states, of which state 0 is the start, K classes of symbols, X symbols.

    Symbols are bytes and, from 256 on, special tokens; those that the automaton was made without may stand nowhere.
    """

    table: Int[np.ndarray, "S K"]
    """int32: the state behind a class of symbols; ``DEAD``: none."""
    symbol_class: Int[np.ndarray, " X"]
    """int32."""
    is_accepting: Bool[np.ndarray, " S"]
    is_clipped: bool = False
    """A recursion inside was cut."""

    @property
    def is_empty(self) -> bool:
        """No text at all; holds for automata that ``smallest`` made."""
        return not self.is_accepting.any()

    @cached_property
    def intervals(self) -> list[list[tuple[int, int, int]]]:
        """Per state: first and last symbol, state behind them."""
        rows = self.table[:, self.symbol_class]
        begins = np.ones(rows.shape, dtype=bool)
        begins[:, 1:] = rows[:, 1:] != rows[:, :-1]
        found: list[list[tuple[int, int, int]]] = []
        for row, is_first in zip(rows, begins, strict=True):
            lows = np.flatnonzero(is_first)
            highs = [*(lows[1:] - 1).tolist(), len(row) - 1]
            edges = zip(lows.tolist(), highs, row[lows].tolist(), strict=True)
            found.append([each for each in edges if each[2] != DEAD])
        return found

    def accepts(self, data: bytes) -> bool:
        """Whether a text without special tokens is in the language."""
        state = 0
        for byte in data:
            state = int(self.table[state, self.symbol_class[byte]])
            if state == DEAD:
                return False
        return bool(self.is_accepting[state])


def from_rows(
    rows: list[list[tuple[int, int, int]]], accepting: Iterable[bool], num_symbols: int, *, is_clipped: bool
) -> Dfa:
    """An automaton from edges per state (first symbol, last symbol, state), in its smallest form."""
    table = np.full((len(rows), num_symbols), DEAD, dtype=np.int32)
    for state, edges in enumerate(rows):
        for low, high, to in edges:
            table[state, low : high + 1] = to
    return smallest(table, np.arange(num_symbols), np.fromiter(accepting, dtype=bool), is_clipped=is_clipped)


def smallest(
    table: Int[np.ndarray, "S K"],
    symbol_class: Int[np.ndarray, " X"],
    is_accepting: Bool[np.ndarray, " S"],
    *,
    is_clipped: bool,
) -> Dfa:
    """The one automaton with the fewest states: without those that cannot finish, equivalent ones joined.

    States must be reachable from state 0.
    """
    table, symbol_class = _join_symbols(table, symbol_class)
    edge_from, place = np.nonzero(table != DEAD)
    left = distances(table[edge_from, place], edge_from, is_accepting)
    if left[0] == UNREACHED:
        empty = np.full((1, 1), DEAD, dtype=np.int32)
        return Dfa(empty, np.zeros(len(symbol_class), np.int32), np.zeros(1, bool), is_clipped)
    lives = left != UNREACHED
    # DEAD indexes the last entry, which stays DEAD.
    renumber = np.full(len(lives) + 1, DEAD, dtype=np.int32)
    renumber[:-1][lives] = np.arange(lives.sum())
    table = renumber[table[lives]]
    label = _equivalent(table, left[lives])
    count = int(label.max()) + 1
    member = np.zeros(count, dtype=np.int64)
    member[label] = np.arange(len(label))
    joined = np.append(label, DEAD)[table[member]]
    joined, symbol_class = _join_symbols(joined, symbol_class)
    order, place_of = _from_start(joined, int(label[0]))
    return Dfa(
        np.append(place_of, DEAD)[joined[order]].astype(np.int32),
        symbol_class,
        is_accepting[lives][member][order],
        is_clipped,
    )


def _join_symbols(
    table: Int[np.ndarray, "S K"], symbol_class: Int[np.ndarray, " X"]
) -> tuple[Int[np.ndarray, "S J"], Int[np.ndarray, " X"]]:
    """Symbols that behave alike in every state become one class."""
    _, first, joined = np.unique(_row_keys(table.T), return_index=True, return_inverse=True)
    return np.ascontiguousarray(table[:, first]), joined.astype(np.int32)[symbol_class]


def _row_keys(rows: Int[np.ndarray, "N M"]) -> np.ndarray:
    """One sortable value per row, equal where rows are."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def _equivalent(table: Int[np.ndarray, "S K"], left: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
    """Labels of states, equal where their languages are.

    Moore's refinement (1956), begun with the length of the shortest text left, in which equivalent states agree. States
    that part from their class get a new label; only what leads to them is looked at in the next round (Hopcroft 1971),
    so that a long chain costs a short step per state.
    """
    _, label = np.unique(left, return_inverse=True)
    edge_from, place = np.nonzero(table != DEAD)
    leads_to = Successors(table[edge_from, place], edge_from, len(table))
    dirty = np.arange(len(table))
    while len(dirty):
        moved = _split(table, label, dirty)
        dirty = np.unique(leads_to.of(moved))
    return label


def _split(
    table: Int[np.ndarray, "S K"], label: Int[np.ndarray, " S"], dirty: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " M"]:
    """Give the dirty states that differ from others of their class new labels, in place; returns those states.

    Of a class's parts, the one with its clean states keeps the label; where all are dirty, the largest.
    """
    rows = np.column_stack([label[dirty], np.append(label, DEAD)[table[dirty]]]).astype(np.int32)
    _, first, part, size = np.unique(_row_keys(rows), return_index=True, return_inverse=True, return_counts=True)
    owner = rows[first, 0]
    is_all_dirty = np.bincount(label)[owner] == np.bincount(rows[:, 0], minlength=owner.max() + 1)[owner]
    order = np.lexsort((-size, owner))
    is_largest = np.zeros(len(owner), dtype=bool)
    is_largest[order[np.unique(owner[order], return_index=True)[1]]] = True
    leaves = ~(is_largest & is_all_dirty)
    fresh = np.cumsum(leaves) + label.max()
    moves = leaves[part]
    label[dirty[moves]] = fresh[part[moves]]
    return dirty[moves]


def _from_start(table: Int[np.ndarray, "S K"], start: int) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """States by their distance from the start, so that equal languages have equal automata; and where each went."""
    edge_from, place = np.nonzero(table != DEAD)
    is_start = np.zeros(len(table), dtype=bool)
    is_start[start] = True
    order = np.argsort(distances(edge_from, table[edge_from, place], is_start), kind="stable")
    place_of = np.empty(len(order), dtype=np.int64)
    place_of[order] = np.arange(len(order))
    return order, place_of


def product(left: Dfa, right: Dfa, accepts: Callable[[np.ndarray, np.ndarray], np.ndarray], meter: Meter) -> Dfa:
    """Texts by whether each side accepts them: ``accepts(of left, of right)``, False for (False, False).

    Sides that died are followed on as a state of their own, so unions and differences are products as well.
    """
    num_symbols = max(len(left.symbol_class), len(right.symbol_class))
    sides = [_with_sink(each, num_symbols) for each in (left, right)]
    both, symbol_class = np.unique(
        sides[0].symbol_class.astype(np.int64) * sides[1].table.shape[1] + sides[1].symbol_class, return_inverse=True
    )
    columns = np.divmod(both, sides[1].table.shape[1])
    width = len(sides[1].table)
    sinks = (len(sides[0].table) - 1) * width + width - 1
    known = np.zeros(1, dtype=np.int64)
    frontier, levels = known, []
    while len(frontier):
        first, second = np.divmod(frontier, width)
        after = sides[0].table[first][:, columns[0]].astype(np.int64) * width + sides[1].table[second][:, columns[1]]
        levels.append((frontier, after))
        frontier = np.setdiff1d(after, np.append(known, sinks))
        known = np.union1d(known, frontier)
        meter.states(len(known), "a product of two parts")
    pairs = np.concatenate([level[0] for level in levels])
    after = np.concatenate([level[1] for level in levels])
    order = np.argsort(pairs)
    places = order[np.clip(np.searchsorted(pairs[order], after), 0, len(pairs) - 1)]
    table = np.where(after == sinks, DEAD, places).astype(np.int32)
    accepting = [side.is_accepting[state] for side, state in zip(sides, np.divmod(pairs, width), strict=True)]
    is_clipped = left.is_clipped or right.is_clipped
    return smallest(table, symbol_class, accepts(*accepting), is_clipped=is_clipped)


def _with_sink(dfa: Dfa, num_symbols: int) -> Dfa:
    """With a last state instead of ``DEAD``, and a class of symbols that leads only there."""
    sink = len(dfa.table)
    table = np.pad(np.where(dfa.table == DEAD, sink, dfa.table), ((0, 1), (0, 1)), constant_values=sink)
    extra = num_symbols - len(dfa.symbol_class)
    symbol_class = np.pad(dfa.symbol_class, (0, extra), constant_values=dfa.table.shape[1])
    return Dfa(table.astype(np.int32), symbol_class, np.append(dfa.is_accepting, False))
