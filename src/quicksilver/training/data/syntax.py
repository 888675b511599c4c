"""Which tokens are a node of the syntax tree: an expression, an argument, a statement, a block.

Pieces are cut out of files and rarely parse, so the parser is one that goes on after errors. The idea is AST-FIM's
(arXiv:2506.00204). The spans are a function of the tokens and of the grammar's version.
"""

from collections.abc import Iterator

import numpy as np
import tree_sitter
import tree_sitter_python

from quicksilver.tokenization.tokenizer import Tokenizer

MAX_NODE_TOKENS = 64
"""Longer nodes are left out: they are definitions and classes, which no editor leaves open."""
_BLANKS = b" \t"


class SyntaxSpans:
    """Finds the nodes of Python tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self._parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_python.language()))

    def __call__(self, token_ids: np.ndarray) -> np.ndarray:
        """Spans [start, stop) of nodes of at most ``MAX_NODE_TOKENS`` tokens, each span once, in order: int64 [N, 2].

        A node that starts inside a token is widened by the blanks before it, because words carry the blank before them.
        Other nodes whose ends are not ends of tokens are left out, such as a string whose last quote shares its token
        with the bracket behind.
        """
        pieces = [self._bytes[token] for token in token_ids.tolist()]
        source = b"".join(pieces)
        stops = np.cumsum([len(piece) for piece in pieces])
        starts = np.concatenate([[0], stops[:-1]])
        nodes = np.array([*_named_nodes(self._parser.parse(source))], dtype=np.int64).reshape(-1, 2)
        first = np.searchsorted(stops, nodes[:, 0], side="right")
        last = np.searchsorted(stops, nodes[:, 1], side="left")
        is_node = (last - first < MAX_NODE_TOKENS) & (stops[last] == nodes[:, 1])
        found = {
            (low, high + 1)
            for low, high, start in zip(
                first[is_node].tolist(), last[is_node].tolist(), nodes[is_node, 0].tolist(), strict=True
            )
            if not source[starts[low] : start].strip(_BLANKS)
        }
        return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def _named_nodes(tree: tree_sitter.Tree) -> Iterator[tuple[int, int]]:
    """First and last byte, exclusive, of every named node that is not empty, nor an error, nor the whole tree."""
    cursor = tree.walk()
    if not cursor.goto_first_child():
        return
    while True:
        node = cursor.node
        if node is not None and node.is_named and not node.is_error and node.start_byte < node.end_byte:
            yield node.start_byte, node.end_byte
        if cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return
