"""The tokens of a tokenizer as a trie over bytes, level by level, for walking all of them at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int

from quicksilver.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes at one depth of the trie. Legend: N nodes, M tokens that end here."""

    parent: Int[np.ndarray, " N"]
    """Index in the level above; at the first level 0, the root."""
    byte: Int[np.ndarray, " N"]
    """uint8: leads from the parent to the node."""
    end_node: Int[np.ndarray, " M"]
    """Node at which each of the tokens ends."""
    end_token: Int[np.ndarray, " M"]
    """Their ids; several of one node where a tokenizer writes the same bytes in several ways."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What a constraint needs to know of a tokenizer."""

    size: int
    levels: tuple[Level, ...]
    """One per byte of the longest token. Tokens without bytes, special ones above all, are not among them."""
    fingerprint: str
    """The tokenizer's."""
    special: Mapping[str, int] = field(default_factory=dict)
    """Ids of the special tokens by name."""


_KNOWN: WeakKeyDictionary[Tokenizer, Vocabulary] = WeakKeyDictionary()


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The trie of a tokenizer; made once for each."""
    found = _KNOWN.get(tokenizer)
    if found is None:
        size = tokenizer.vocab_size
        tokens = [tokenizer.token_bytes(index) for index in range(size)]
        found = _KNOWN[tokenizer] = Vocabulary(size, _levels(tokens), tokenizer.fingerprint, dict(tokenizer.special))
    return found


def _levels(tokens: list[bytes]) -> tuple[Level, ...]:
    order = np.array(sorted((i for i, token in enumerate(tokens) if token), key=tokens.__getitem__), dtype=np.int64)
    lengths = np.array([len(tokens[i]) for i in order])
    begins = np.cumsum(lengths) - lengths
    data = np.frombuffer(b"".join(tokens[i] for i in order), dtype=np.uint8)
    # Rows of tokens that are longer than the depth, the node of each above, and which share it with the row before.
    rows, node = np.arange(len(order)), np.zeros(len(order), dtype=np.int64)
    levels = []
    while len(rows):
        depth = len(levels)
        byte = data[begins[rows] + depth]
        is_new = np.ones(len(rows), dtype=bool)
        is_new[1:] = (node[1:] != node[:-1]) | (byte[1:] != byte[:-1])
        parent, node = node[is_new], np.cumsum(is_new) - 1
        ends = lengths[rows] == depth + 1
        levels.append(Level(parent, byte[is_new], node[ends], order[rows[ends]]))
        rows, node = rows[~ends], node[~ends]
    return tuple(levels)
