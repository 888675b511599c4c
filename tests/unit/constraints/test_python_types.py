"""Types of holes, against Python's own reader."""

import ast
import keyword
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.constraints.python_types import PYTHON_TYPES
from tests.constraint_languages import automaton_of, bundled_tokenizer

KINDS = {"integer": int, "number": (int, float), "string": str, "boolean": bool}
TEXTS = st.one_of(
    st.sampled_from([*keyword.kwlist, "iff", "_", "__x1", "1x", "0", "00", "1_0", "1__0", "1.5", "1.", "1e-3", "1e+3"]),
    st.sampled_from(["'a'", '"a"', "'a\"", r"'\n'", "'\n'", r"'\'", "''", "True", "False", "true", "é"]),
    st.text(alphabet="aif_019.eE-'\"\\x", max_size=6),
)


@cache
def compiled(kind):
    return automaton_of(PYTHON_TYPES[kind])


def accepts(kind, text):
    automaton = compiled(kind)
    state = automaton.walk(bundled_tokenizer().encode(text))
    return state is not None and bool(automaton.is_accepting[state])


@given(TEXTS)
def test_identifiers_are_names_and_no_keywords(text):
    expected = text.isascii() and text.isidentifier() and not keyword.iskeyword(text)
    assert accepts("identifier", text) == expected


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(text=TEXTS)
def test_literals_are_what_python_reads(kind, text):
    if not accepts(kind, text):
        return
    assert isinstance(ast.literal_eval(text), KINDS[kind])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "0"),
        ("integer", "1_000"),
        ("number", "3.14"),
        ("number", "1e-5"),
        ("string", r"'it\'s'"),
        ("string", '""'),
    ],
)
def test_usual_literals_are_there(kind, text):
    assert accepts(kind, text)
