"""Nodes of the syntax tree against Python's own parser, and by hand where a piece does not parse."""

import ast

import numpy as np

from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.tokenization.train import train_tokenizer
from quicksilver.training.data.syntax import MAX_NODE_TOKENS, SyntaxSpans
from tests.training_runs import source, tiny_tokenizer

CODE = """def größe_3(x, y=7):
    total = x * 12 + fn(y, key=[1, 2])
    if total > 3 and not y:
        return {"总数": total}
    return items[total].count
"""


def found_in(code: str, tokenizer: Tokenizer) -> tuple[list[int], list[list[int]], set[str]]:
    """Tokens, spans, and the spans' texts without the blanks before them."""
    ids = tokenizer.encode(code)
    spans = SyntaxSpans(tokenizer)(np.array(ids, dtype=np.int64)).tolist()
    return ids, spans, {tokenizer.decode(ids[low:high]).lstrip(" ") for low, high in spans}


def expressions(code: str) -> set[str]:
    tree = ast.parse(code)
    return {ast.get_source_segment(code, node) for node in ast.walk(tree) if isinstance(node, ast.expr)}


def test_every_expression_is_a_node_if_tokens_are_characters():
    # Trained on nothing, the tokenizer knows bytes alone.
    tokenizer = train_tokenizer(["a"], vocab_size=314)
    wide = {text for text in expressions(CODE) if len(text.encode()) <= MAX_NODE_TOKENS}
    assert len(wide) > 20
    _, _, texts = found_in(CODE, tokenizer)
    assert wide <= texts
    # Beside expressions there are arguments, parameters and statements.
    others = {"(y, key=[1, 2])", "key=[1, 2]", "(x, y=7)", "y=7", 'return {"总数": total}'}
    assert others <= texts
    assert not {"if", "(", ")", "and", ":"} & texts


def test_nodes_begin_and_end_with_tokens():
    tokenizer = tiny_tokenizer()
    for index in range(5):
        code = source(index)
        ids, spans, texts = found_in(code, tokenizer)
        assert spans == sorted(spans)
        assert len({tuple(span) for span in spans}) == len(spans)
        assert all(0 <= low < high <= len(ids) and high - low <= MAX_NODE_TOKENS for low, high in spans)
        known = expressions(code)
        multiplied = {text for text in texts if " * " in text and "\n" not in text and "return" not in text}
        assert multiplied
        assert multiplied <= known


def test_a_word_takes_the_blank_before_it_and_nothing_else():
    tokenizer = train_tokenizer(["x = value\ny = [value]\n"] * 40, vocab_size=340)
    ids = tokenizer.encode("x = value\n")
    words = [tokenizer.decode([token]) for token in ids]
    assert " value" in words
    low = words.index(" value")
    assert [low, low + 1] in SyntaxSpans(tokenizer)(np.array(ids)).tolist()


def test_pieces_that_do_not_parse_have_nodes_too():
    tokenizer = train_tokenizer(["a"], vocab_size=314)
    _, _, texts = found_in("b):\n    return fn(x, 3)\nelse:\n    y = (a +\n", tokenizer)
    assert "fn(x, 3)" in texts
    for code in ("", "\n\n", '"""', "\ufffd"):
        found_in(code, tokenizer)
