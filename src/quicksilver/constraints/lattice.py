"""An automaton laid out for programmes over columns, and the part of it that one block can use.

Legend: S states, P pairs of states that some token joins, K different sets of classes that join pairs, C classes,
M members of all sets, V tokens. Most pairs are joined by one of few sets, so what is known of the classes of a column
is summed per set and only then looked up per pair.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Int

from quicksilver.constraints.automaton import NO_CLASS, TokenAutomaton
from quicksilver.errors import ConfigError

NO_TOKEN = -1
"""Where any token may stand: a mask."""
FAR = int(np.iinfo(np.int32).max)
"""Distance of a state from which there is no end."""
_KEPT_LATTICES = 64
_KEPT_TRELLISES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """The pairs of a trellis, those of a state adjacent: those out of it, or those into it."""

    first: Int[np.ndarray, " S1"]
    """Where the pairs of each state begin; one more entry than states."""
    other: Int[np.ndarray, " P"]
    """The state at the other end."""
    sets: Int[np.ndarray, " P"]

    @classmethod
    def of(
        cls, own: Int[np.ndarray, " P"], other: Int[np.ndarray, " P"], sets: Int[np.ndarray, " P"], num_states: int
    ) -> "Direction":
        """Lay out pairs by the states at one of their ends, ``own``."""
        order = np.lexsort((other, own))
        return cls(np.searchsorted(own[order], np.arange(num_states + 1)), other[order], sets[order])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trellis:
    """What a stretch of columns can use of a lattice. States, classes and sets have numbers of their own here."""

    states: Int[np.ndarray, " S"]
    """Their numbers in the automaton, rising."""
    outward: Direction
    """Pairs by the state in front of a column."""
    inward: Direction
    """Pairs by the state behind it."""
    member_class: Int[np.ndarray, " M"]
    """Classes of all sets, set after set, rising within each."""
    first_member: Int[np.ndarray, " K1"]
    has_class: Bool[np.ndarray, "K C"]
    token_ids: Int[np.ndarray, " V"]
    """Tokens that may stand somewhere, class after class, rising within each."""
    first_token: Int[np.ndarray, " C1"]
    class_of: Int[np.ndarray, " all"]
    """Class here of every class of the automaton; ``NO_CLASS`` for those out of reach."""
    token_class: Int[np.ndarray, " vocabulary"]
    """As the lattice's."""

    @property
    def num_states(self) -> int:
        return len(self.states)

    @property
    def num_classes(self) -> int:
        return len(self.first_token) - 1

    def state(self, number: int) -> int:
        """The number here of a state of the automaton that is within reach."""
        return int(np.searchsorted(self.states, number))

    def class_of_token(self, token_id: int) -> int:
        """``NO_CLASS`` for a token that may stand nowhere."""
        kind = self.token_class[token_id] if 0 <= token_id < len(self.token_class) else NO_CLASS
        return NO_CLASS if kind == NO_CLASS else int(self.class_of[kind])

    def place_of_token(self, token_id: int, kind: int) -> int:
        """Where a token of class ``kind`` is among ``token_ids``."""
        first, stop = self.first_token[kind], self.first_token[kind + 1]
        return int(first + np.searchsorted(self.token_ids[first:stop], token_id))


class Lattice:
    """An automaton without the tokens that a request never writes, or without its end."""

    def __init__(
        self, automaton: TokenAutomaton, *, eos_id: int, never: frozenset[int], ends: frozenset[int], has_end: bool
    ) -> None:
        """Leave out what cannot be written, and every state from which there is no end then.

        Args:
            automaton: the constraint.
            eos_id: the checkpoint's.
            never: tokens that are never written, whatever the automaton says.
            ends: tokens that end a text as eos does.
            has_end: whether eos is written. Otherwise, in a hole, the text ends in an accepting state.

        Raises:
            ConfigError: the automaton was made for another tokenizer; or a token of ``ends`` may stand within the text;
                or nothing is left.
        """
        self.automaton = automaton
        kinds = self._classes_for(automaton, eos_id, ends)
        kinds[[token for token in never if token < len(kinds)]] = NO_CLASS
        self.token_class = kinds
        is_goal = automaton.is_accepting.copy()
        is_goal[automaton.end] = has_end
        if has_end:
            is_goal[:] = np.arange(automaton.num_states) == automaton.end
        is_used = np.zeros(automaton.num_classes, dtype=bool)
        is_used[kinds[kinds != NO_CLASS]] = True
        keep = is_used[automaton.edge_class]
        if not has_end:
            keep &= automaton.edge_to != automaton.end
        edges = _Edges.sorted(automaton.edge_from[keep], automaton.edge_class[keep], automaton.edge_to[keep])
        self.is_goal = is_goal
        self.distance: Int[np.ndarray, " S"] = _distances(edges, is_goal)
        """Fewest tokens to an end, eos included; ``FAR`` where there is none."""
        if self.distance[automaton.start] == FAR:
            raise ConfigError("the constraint allows no text of tokens that this request may write")
        self._edges = edges.within(self.distance < FAR)
        if not (self._edges.source == automaton.start).any():
            raise ConfigError("the constraint allows the empty text alone, and a hole holds at least one token")
        self._pairs = _Pairs.of(self._edges)
        self._first_edge = np.searchsorted(self._edges.kind, np.arange(automaton.num_classes + 1)).tolist()
        self._by_class = np.argsort(kinds, kind="stable").astype(np.int64)
        self._first_token = np.searchsorted(kinds[self._by_class], np.arange(automaton.num_classes + 1))
        self._trellises: OrderedDict[tuple[int, int], Trellis] = OrderedDict()

    @staticmethod
    def _classes_for(automaton: TokenAutomaton, eos_id: int, ends: frozenset[int]) -> Int[np.ndarray, " V"]:
        kinds = automaton.token_class.copy()
        of_end = set(automaton.edge_class[automaton.edge_to == automaton.end].tolist())
        if not 0 <= eos_id < len(kinds) or of_end != {int(kinds[eos_id])}:
            raise ConfigError(
                f"the constraint was made for another tokenizer: its texts do not end with eos, token {eos_id}"
            )
        inside = sorted(token for token in ends if token < len(kinds) and kinds[token] not in (NO_CLASS, *of_end))
        if inside:
            raise ConfigError(f"stop_ids {inside} may stand inside a text that the constraint allows")
        missing = max(ends, default=-1) + 1 - len(kinds)
        if missing > 0:
            kinds = np.concatenate([kinds, np.full(missing, NO_CLASS, dtype=kinds.dtype)])
        kinds[list(ends)] = kinds[eos_id]
        return kinds

    @property
    def start(self) -> int:
        return self.automaton.start

    @cached_property
    def _next(self) -> dict[tuple[int, int], int]:
        edges = self._edges
        return {
            (state, kind): to
            for state, kind, to in zip(edges.source.tolist(), edges.kind.tolist(), edges.target.tolist(), strict=True)
        }

    def step(self, state: int, token_id: int) -> int | None:
        """The state behind a token; None: it may not stand here."""
        kind = int(self.token_class[token_id]) if token_id < len(self.token_class) else NO_CLASS
        return self._next.get((state, kind))

    def walk(self, token_ids: Iterable[int], state: int) -> int | None:
        """The state behind tokens; None: they do not fit."""
        at: int | None = state
        for token_id in token_ids:
            at = None if at is None else self.step(at, token_id)
        return at

    def require_budget(self, max_tokens: int) -> None:
        """Raise ConfigError if no text of at most ``max_tokens`` tokens, eos included, satisfies the constraint."""
        least = int(self.distance[self.start])
        if least > max_tokens:
            raise ConfigError(f"the constraint needs at least {least} tokens, max_tokens is {max_tokens}")

    def only(self, state: int) -> Bool[np.ndarray, " S"]:
        """The set that holds one state."""
        return np.arange(self.automaton.num_states) == state

    def after(self, states: Bool[np.ndarray, " S"], token_id: int) -> Bool[np.ndarray, " S"]:
        """The states behind one column, in which ``token_id`` stands, or any token if it is ``NO_TOKEN``."""
        return self._move(states, token_id, forward=True)

    def before(self, states: Bool[np.ndarray, " S"], token_id: int) -> Bool[np.ndarray, " S"]:
        """The states in front of one column from which it leads into ``states``."""
        return self._move(states, token_id, forward=False)

    def _move(self, states: Bool[np.ndarray, " S"], token_id: int, *, forward: bool) -> Bool[np.ndarray, " S"]:
        moved = np.zeros_like(states)
        if token_id == NO_TOKEN:
            source, target = self._pairs.source, self._pairs.target
        else:
            kind = int(self.token_class[token_id]) if token_id < len(self.token_class) else NO_CLASS
            joined = slice(0, 0) if kind == NO_CLASS else slice(self._first_edge[kind], self._first_edge[kind + 1])
            source, target = self._edges.source[joined], self._edges.target[joined]
        if not forward:
            source, target = target, source
        moved[target[states[source]]] = True
        return moved

    def has_text(self, token_ids: Sequence[int]) -> bool:
        """Whether columns can be filled to a whole text from the beginning; ``NO_TOKEN`` stands for a mask."""
        states = self.only(self.start)
        for token_id in token_ids:
            states = self.after(states, token_id)
        return bool((states & self.is_goal).any())

    def lengths(self, most: int) -> list[int]:
        """How many tokens, 1 to ``most``, the whole texts have."""
        states, found = self.only(self.start), []
        for length in range(1, most + 1):
            states = self.after(states, NO_TOKEN)
            if (states & self.is_goal).any():
                found.append(length)
        return found

    def trellis(self, start: int, length: int) -> Trellis:
        """What ``length`` columns behind state ``start`` can use."""
        key = (start, length)
        found = self._trellises.pop(key, None)
        if found is None:
            found = self._within_reach(start, length)
        self._trellises[key] = found
        if len(self._trellises) > _KEPT_TRELLISES:
            self._trellises.popitem(last=False)
        return found

    def _within_reach(self, start: int, length: int) -> Trellis:
        reached, new = self.only(start), self.only(start)
        for _ in range(length):
            new = self.after(new, NO_TOKEN) & ~reached
            if not new.any():
                break
            reached |= new
        pairs = self._pairs
        keep = reached[pairs.source] & reached[pairs.target]
        states = reached.nonzero()[0]
        sets, pair_set = np.unique(pairs.set[keep], return_inverse=True)
        sizes = pairs.first_member[sets + 1] - pairs.first_member[sets]
        members = np.concatenate([pairs.members(number) for number in sets])
        classes, member_class = np.unique(members, return_inverse=True)
        has_class = np.zeros((len(sets), len(classes)), dtype=bool)
        has_class[np.repeat(np.arange(len(sets)), sizes), member_class] = True
        class_of = np.full(self.automaton.num_classes, NO_CLASS)
        class_of[classes] = np.arange(len(classes))
        tokens = [self._by_class[self._first_token[kind] : self._first_token[kind + 1]] for kind in classes]
        pair_from, pair_to = (np.searchsorted(states, each[keep]) for each in (pairs.source, pairs.target))
        return Trellis(
            states=states,
            outward=Direction.of(pair_from, pair_to, pair_set, len(states)),
            inward=Direction.of(pair_to, pair_from, pair_set, len(states)),
            member_class=member_class,
            first_member=np.concatenate([[0], sizes.cumsum()]),
            has_class=has_class,
            token_ids=np.concatenate(tokens),
            first_token=np.concatenate([[0], np.cumsum([len(each) for each in tokens])]),
            class_of=class_of,
            token_class=self.token_class,
        )


@lru_cache(maxsize=_KEPT_LATTICES)
def lattice_of(
    automaton: TokenAutomaton, *, eos_id: int, never: frozenset[int], ends: frozenset[int], has_end: bool
) -> Lattice:
    """``Lattice``, kept for the next request that asks for the same."""
    # Compiled, or found missing, before a request is taken.
    from quicksilver.constraints import kernels  # noqa: F401

    return Lattice(automaton, eos_id=eos_id, never=never, ends=ends, has_end=has_end)


@dataclass(frozen=True, slots=True)
class _Edges:
    """Sorted by kind."""

    source: Int[np.ndarray, " E"]
    kind: Int[np.ndarray, " E"]
    target: Int[np.ndarray, " E"]

    @classmethod
    def sorted(
        cls, source: Int[np.ndarray, " E"], kind: Int[np.ndarray, " E"], target: Int[np.ndarray, " E"]
    ) -> "_Edges":
        order = np.argsort(kind, kind="stable")
        return cls(source[order], kind[order], target[order])

    def within(self, states: Bool[np.ndarray, " S"]) -> "_Edges":
        keep = states[self.source] & states[self.target]
        return _Edges(self.source[keep], self.kind[keep], self.target[keep])


def _distances(edges: _Edges, is_goal: Bool[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
    distance = np.where(is_goal, 0, FAR).astype(np.int32)
    new, steps = is_goal, 0
    while new.any():
        steps += 1
        found = np.zeros_like(is_goal)
        found[edges.source[new[edges.target]]] = True
        new = found & (distance == FAR)
        distance[new] = steps
    return distance


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Edges by the states they join, sorted by source and target."""

    source: Int[np.ndarray, " P"]
    target: Int[np.ndarray, " P"]
    set: Int[np.ndarray, " P"]
    """Which set of classes joins them."""
    member_class: Int[np.ndarray, " M"]
    first_member: Int[np.ndarray, " K1"]

    def members(self, number: int) -> Int[np.ndarray, " m"]:
        return self.member_class[self.first_member[number] : self.first_member[number + 1]]

    @classmethod
    def of(cls, edges: _Edges) -> "_Pairs":
        order = np.lexsort((edges.kind, edges.target, edges.source))
        source, kind, target = edges.source[order], edges.kind[order], edges.target[order]
        is_head = np.ones(len(order), dtype=bool)
        is_head[1:] = (source[1:] != source[:-1]) | (target[1:] != target[:-1])
        heads = is_head.nonzero()[0]
        numbers: dict[bytes, int] = {}
        members, sets = [], []
        for one in np.split(kind, heads[1:]):
            number = numbers.setdefault(one.tobytes(), len(numbers))
            if number == len(members):
                members.append(one)
            sets.append(number)
        return cls(
            source[heads],
            target[heads],
            np.array(sets, dtype=np.int64),
            np.concatenate(members),
            np.concatenate([[0], np.cumsum([len(each) for each in members])]),
        )
