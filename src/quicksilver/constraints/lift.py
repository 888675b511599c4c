"""From an automaton over bytes to one over tokens, without a table of tokens.

A token acts on an automaton as a function from states to states, the composition of its bytes' functions. Walking the
trie of all tokens level by level, nodes with the same function are joined: their children by the same class of bytes
have the same function again. A schema has some hundred different ones, whatever the vocabulary. Tokens with the same
function are one class.
"""

import numpy as np
from jaxtyping import Bool, Int

from quicksilver.constraints.automaton import NO_CLASS, TokenAutomaton
from quicksilver.constraints.dfa import BYTES, DEAD, Dfa
from quicksilver.constraints.graph import UNREACHED, distances
from quicksilver.constraints.limits import Meter
from quicksilver.constraints.vocabulary import Vocabulary
from quicksilver.errors import UnsatisfiableConstraintError

_NOWHERE = -1


class _Functions:
    """Functions of states, numbered; the one that is nowhere defined is ``_NOWHERE``."""

    def __init__(self, dfa: Dfa, meter: Meter) -> None:
        # One row more, so that DEAD leads to DEAD.
        self._step = np.ascontiguousarray(np.pad(dfa.table, ((0, 1), (0, 0)), constant_values=DEAD).T)
        self._number: dict[bytes, int] = {}
        self._meter = meter
        self.rows: list[Int[np.ndarray, " S"]] = []

    def number(self, row: Int[np.ndarray, " S"]) -> int:
        key = row.tobytes()
        found = self._number.get(key)
        if found is None:
            found = self._number[key] = len(self.rows)
            self.rows.append(row)
            self._meter.clock()
        return found

    def after(self, functions: Int[np.ndarray, " N"], kinds: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """The function of each node from its parent's and from the class of the byte in between."""
        result = np.full(len(functions), _NOWHERE, dtype=np.int64)
        is_alive = functions != _NOWHERE
        width = len(self._step)
        pairs, place = np.unique(functions[is_alive] * width + kinds[is_alive], return_inverse=True)
        numbers = np.empty(len(pairs), dtype=np.int64)
        for index, pair in enumerate(pairs.tolist()):
            function, kind = divmod(pair, width)
            row = self._step[kind][self.rows[function]]
            numbers[index] = self.number(row) if (row != DEAD).any() else _NOWHERE
        result[is_alive] = numbers[place]
        return result


def lift(
    dfa: Dfa, specials: list[int], eos_token_id: int, vocabulary: Vocabulary, *, meter: Meter, fingerprint: str
) -> TokenAutomaton:
    """The automaton over tokens of an automaton over bytes.

    Args:
        dfa: its smallest form.
        specials: token ids of the symbols from 256 on.
        eos_token_id: ends a text; not among ``specials``.
        vocabulary: the tokens.
        meter: limits.
        fingerprint: to be kept in the result.

    Raises:
        UnsatisfiableConstraintError: no text of tokens is in the language.
        ConstraintTooLargeError: a limit was passed.
    """
    functions = _Functions(dfa, meter)
    function_of = np.full(vocabulary.size, _NOWHERE, dtype=np.int64)
    node = np.array([functions.number(np.arange(len(dfa.table), dtype=np.int32))])
    for level in vocabulary.levels:
        node = functions.after(node[level.parent], dfa.symbol_class[:BYTES][level.byte])
        function_of[level.end_token] = node[level.end_node]
    for symbol, token in enumerate(specials, start=BYTES):
        if symbol < len(dfa.symbol_class):
            row = dfa.table[:, dfa.symbol_class[symbol]]
            function_of[token] = functions.number(row) if (row != DEAD).any() else _NOWHERE
    return _automaton(dfa, functions.rows, function_of, eos_token_id, fingerprint, meter)


def _automaton(
    dfa: Dfa,
    rows: list[Int[np.ndarray, " S"]],
    function_of: Int[np.ndarray, " V"],
    eos_token_id: int,
    fingerprint: str,
    meter: Meter,
) -> TokenAutomaton:
    end, eos = len(dfa.table), len(rows)
    function_of[eos_token_id] = eos
    used, place = np.unique(function_of, return_inverse=True)
    columns = [_ends(dfa, end) if each == eos else _column(rows[each]) for each in used.tolist() if each != _NOWHERE]
    meter.edges(sum(column.shape[1] for column in columns))
    lives = _on_the_way(np.concatenate(columns, axis=1), end)
    number = np.cumsum(lives, dtype=np.int32) - 1
    kind_of, edges = _classes(columns, lives, number)
    # The first of `used` is _NOWHERE wherever some token has no edge.
    kind_of = [NO_CLASS] * (len(used) - len(columns)) + kind_of
    order = np.lexsort((edges[1], edges[0], edges[2]))
    edge_from, edge_class, edge_to = np.ascontiguousarray(edges[:, order])
    states = np.flatnonzero(lives)
    return TokenAutomaton(
        token_class=np.array(kind_of, dtype=np.int32)[place],
        edge_from=edge_from,
        edge_class=edge_class,
        edge_to=edge_to,
        start=0,
        end=len(states) - 1,
        is_accepting=np.append(dfa.is_accepting, True)[states],
        distance=distances(edge_to, edge_from, states == end),
        is_clipped=dfa.is_clipped,
        fingerprint=fingerprint,
    )


def _column(row: Int[np.ndarray, " S"]) -> Int[np.ndarray, "2 A"]:
    """Where a function is defined, and to where it leads."""
    origins = np.flatnonzero(row != DEAD)
    return np.stack([origins, row[origins]])


def _ends(dfa: Dfa, end: int) -> Int[np.ndarray, "2 A"]:
    """The function of eos: from where a text may end, and from the end to itself."""
    origins = np.append(np.flatnonzero(dfa.is_accepting), end)
    return np.stack([origins, np.full(len(origins), end)])


def _on_the_way(edges: Int[np.ndarray, "2 E"], end: int) -> Bool[np.ndarray, " S"]:
    """The states that texts of tokens pass through; bytes inside a token pass through others."""
    states = np.arange(end + 1)
    lives = (distances(edges[0], edges[1], states == 0) != UNREACHED) & (
        distances(edges[1], edges[0], states == end) != UNREACHED
    )
    if not lives[0]:
        raise UnsatisfiableConstraintError("no text of this tokenizer's tokens satisfies the constraint")
    return lives


def _classes(
    columns: list[Int[np.ndarray, "2 A"]], lives: Bool[np.ndarray, " S"], number: Int[np.ndarray, " S"]
) -> tuple[list[int], Int[np.ndarray, "3 E"]]:
    """The class of each column, and all edges (from, class, to), between the states that live, by their new numbers."""
    known: dict[bytes, int] = {}
    kinds, edges = [], []
    for column in columns:
        kept = number[column[:, lives[column].all(axis=0)]]
        if not kept.size:
            kinds.append(NO_CLASS)
            continue
        kind = known.setdefault(kept.tobytes(), len(known))
        if kind == len(edges):
            edges.append(np.stack([kept[0], np.full(kept.shape[1], kind, dtype=np.int32), kept[1]]))
        kinds.append(kind)
    return kinds, np.concatenate(edges, axis=1)
