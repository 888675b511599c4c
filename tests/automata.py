"""Token automata without a compiler: random ones, and those of given texts."""

import random
from collections.abc import Iterable, Sequence

import numpy as np

from quicksilver.constraints.automaton import NO_CLASS, TokenAutomaton

Edges = set[tuple[int, int, int]]
"""State, token, state."""


def automaton_of(edges: Edges, accepting: Iterable[int], start: int, vocab_size: int, eos_id: int) -> TokenAutomaton:
    """The automaton of edges over tokens; states from which no accepting one is reached are left out."""
    end = max({start, *accepting, *(s for each in edges for s in (each[0], each[2]))}) + 1
    edges = edges | {(state, eos_id, end) for state in accepting} | {(end, eos_id, end)}
    distance = {end: 0}
    while True:
        more = {s: distance[t] + 1 for s, _, t in sorted(edges, key=lambda e: -distance.get(e[2], 0)) if t in distance}
        new = {s: d for s, d in more.items() if s not in distance}
        if not new:
            break
        # Breadth first: only the nearest of the new ones are certain.
        nearest = min(new.values())
        distance |= {s: d for s, d in new.items() if d == nearest}
    if start not in distance:
        raise ValueError("nothing is accepted")
    states = sorted(distance)
    number = {state: at for at, state in enumerate(states)}
    kept = {(number[s], token, number[t]) for s, token, t in edges if s in number and t in number}
    columns = {token: frozenset((s, t) for s, v, t in kept if v == token) for token in range(vocab_size)}
    kinds = {column: at for at, column in enumerate(dict.fromkeys(c for c in columns.values() if c))}
    token_class = np.array([kinds.get(columns[v], NO_CLASS) for v in range(vocab_size)], dtype=np.int32)
    of_classes = sorted({(t, s, int(token_class[v])) for s, v, t in kept})
    to, source, kind = (np.array(each, dtype=np.int32) for each in zip(*of_classes, strict=True))
    return TokenAutomaton(
        token_class=token_class,
        edge_from=source,
        edge_class=kind,
        edge_to=to,
        start=number[start],
        end=number[end],
        is_accepting=np.array([state in accepting or state == end for state in states]),
        distance=np.array([distance[state] for state in states], dtype=np.int32),
        is_clipped=False,
        fingerprint=f"{hash((frozenset(kept), start)):x}",
    )


def random_automaton(
    rng: random.Random,
    vocab_size: int,
    num_states: int,
    *,
    eos_id: int,
    first_id: int = 0,
    density: float = 0.5,
    num_kinds: int = 4,
) -> TokenAutomaton:
    """Any automaton over the tokens from ``first_id`` on, eos excepted; some tokens behave alike."""
    while True:
        alike = [rng.randrange(num_kinds) for _ in range(vocab_size)]
        targets = {
            (state, kind): rng.randrange(num_states)
            for state in range(num_states)
            for kind in range(num_kinds)
            if rng.random() < density
        }
        tokens = [token for token in range(first_id, vocab_size) if token != eos_id and rng.random() < 0.9]
        edges = {
            (state, token, targets[state, alike[token]])
            for state in range(num_states)
            for token in tokens
            if (state, alike[token]) in targets
        }
        accepting = {state for state in range(num_states) if rng.random() < 0.4}
        try:
            return automaton_of(edges, accepting, 0, vocab_size, eos_id)
        except ValueError:
            continue


def automaton_of_texts(texts: Sequence[Sequence[int]], vocab_size: int, eos_id: int) -> TokenAutomaton:
    """Exactly these texts."""
    prefixes = sorted({tuple(text[:at]) for text in texts for at in range(len(text) + 1)})
    number = {prefix: at for at, prefix in enumerate(prefixes)}
    edges = {(number[prefix[:-1]], prefix[-1], number[prefix]) for prefix in prefixes if prefix}
    return automaton_of(edges, {number[tuple(text)] for text in texts}, number[()], vocab_size, eos_id)
