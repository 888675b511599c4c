import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.constraints.grammar import Grammar
from quicksilver.errors import ConfigError, UnsupportedConstraintError
from tests.constraint_languages import automaton_of, bundled_tokenizer, language_of

ARITHMETIC = r"""
# Left recursion, as people write it.
root ::= expr "\n"
expr ::= expr [-+*/] term | term
term ::= num | "(" expr ")"   # nests
num ::= [0-9]+
"""
CHESS = r"""
root  ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")*
move  ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
"""


@pytest.mark.parametrize(
    ("grammar", "pattern", "alphabet"),
    [
        (r'root ::= "a" | "b"? [cd]{2,3}', "a|b?[cd]{2,3}", "abcd"),
        (r'root ::= ("a" | "b")* "c"+', "[ab]*c+", "abc"),
        (r'root ::= [^a\]] . "\""', r'[^a\]]."', 'a]b"'),
        (r'root ::= "a"{2} "b"{,2} "c"{1,}', "aab{0,2}c+", "abc"),
        ('root ::= "a" (\n  "b"\n  | "c")\n', "ab|ac", "abc"),
        (r'root ::= "\x61\u0062\U00000063" [\x61-c]', "abc[a-c]", "abc"),
        (r'root ::= a b a' + '\na ::= | "x"\nb ::= "y"', "x?yx?", "xy"),
        (r'root ::= "a" root | "b"', "a*b", "ab"),
        (r'root ::= root "a" | root "b" | "c"', "c[ab]*", "abc"),
        ("root ::= [-a] [a-]", "[-a][a-]", "-ab"),
    ],
)  # fmt: skip
def test_a_grammar_is_the_language_of_an_expression(grammar, pattern, alphabet):
    language = language_of(Grammar(grammar))
    assert not language.is_clipped

    @given(st.text(st.sampled_from(alphabet), max_size=6))
    def check(text):
        assert language.accepts(text.encode()) == (re.fullmatch(pattern, text) is not None)

    check()


def test_what_nests_is_cut_at_the_depth_and_says_so():
    shallow, deep = (language_of(Grammar(ARITHMETIC), depth=depth) for depth in (1, 3))
    assert shallow.is_clipped
    assert automaton_of(Grammar(ARITHMETIC), depth=1).is_clipped
    for text, is_shallow, is_deep in (
        ("1+2*3-4/5+6\n", True, True),
        ("(1+2)*(3)\n", True, True),
        ("((1+2)*(3))-4\n", False, True),
        ("(1+2\n", False, False),
    ):
        assert (shallow.accepts(text.encode()), deep.accepts(text.encode())) == (is_shallow, is_deep), text


def test_a_grammar_without_recursion_is_whole():
    language = language_of(Grammar(CHESS))
    assert not language.is_clipped
    assert language.accepts(b"1. e4 e5\n2. Nf3 Nc6\n3. O-O exd4\n")
    assert not language.accepts(b"1. e9 e5\n")


def test_special_tokens_are_written_by_name():
    tokenizer = bundled_tokenizer()
    automaton = automaton_of(Grammar('root ::= "a" <mask> "b"'))
    tokens = [*tokenizer.encode("a"), tokenizer.id_of("<mask>"), *tokenizer.encode("b"), tokenizer.id_of("<eos>")]
    assert automaton.walk(tokens) == automaton.end
    with pytest.raises(ConfigError, match="ends a text"):
        automaton_of(Grammar('root ::= "a" <eos>'))


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        ("root = 'a'", "line 1: ::= is missing"),
        ('root ::= "a"\n::= "b"', "line 2: a rule's name"),
        ('root ::= "a', "ends inside"),
        ("root ::= [a", "ends inside"),
        ("root ::= [b-a]", "ends before it begins"),
        ('root ::= ("a"', r"\) is missing"),
        (r'root ::= "\q"', "unknown escape"),
        (r'root ::= "\x6"', "code point"),
        ('root ::= "a"{2,1}', "at least 2 and at most 1"),
        ('root ::= "a"{}', "without bounds"),
        ("root ::= a b", "does not define: a, b"),
        ('a ::= "b"', "no rule 'root'; it has a"),
        ('root ::= "a"\nroot ::= "b"', "'root' is defined twice"),
    ],
)
def test_what_is_no_grammar_is_an_error(grammar, named):
    with pytest.raises(ConfigError, match=named):
        language_of(Grammar(grammar))


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        ("root ::= !<[3]>", "negation"),
        ('root ::= a "x" | "y"\na ::= root | "z"', "rule 'a' begins with itself"),
        ('root ::= a? root "x" | "y"\na ::= "z"', "rule 'root' begins with itself"),
        ("root ::= " + "(" * 200 + '"a"' + ")" * 200, "more than 100 groups"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(grammar, named):
    with pytest.raises(UnsupportedConstraintError, match=named):
        language_of(Grammar(grammar))


def test_the_start_may_be_named():
    assert language_of(Grammar('root ::= "a"\nother ::= "b"', start="other")).accepts(b"b")


def test_an_unknown_syntax_is_an_error():
    with pytest.raises(ConfigError, match="gbnf or lark"):
        Grammar("", syntax="bnf")  # pyright: ignore[reportArgumentType]
