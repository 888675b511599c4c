import pytest

from quicksilver.constraints.grammar import Grammar
from quicksilver.errors import ConfigError, UnsupportedConstraintError
from tests.constraint_languages import language_of

JSON = r"""
start: value
?value: object | array | ESCAPED_STRING | SIGNED_NUMBER | "true" | "false" | "null"
array: "[" [value ("," value)*] "]"
object: "{" [pair ("," pair)*] "}"
pair: ESCAPED_STRING ":" value
%import common.ESCAPED_STRING
%import common.SIGNED_NUMBER
%import common.WS
%ignore WS
"""


@pytest.mark.parametrize(
    ("text", "is_json"),
    [
        (r'{"a": [1, 2.5e3, {"b": "x\"\n"}]}', True),
        (" { } ", True),
        ("[1,1,1,1,1,1,1,1,1,1]", True),
        ('"a"b"', False),
        ("-1.5E+3", True),
        ("[1,]", False),
        ("[[[1]]]", True),
        ("[[[[1]]]]", False),
    ],
)
def test_json_to_a_depth(text, is_json):
    language = language_of(Grammar(JSON, syntax="lark"))
    assert language.is_clipped
    assert language.accepts(text.encode()) == is_json


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        ('start: "a', "Lark cannot read"),
        ("start: missing", "Lark cannot read"),
        ('other: "a"', "Lark cannot read"),
        ("start: A\nA: /(/", "Lark cannot read"),
    ],
)
def test_what_lark_cannot_read_is_an_error(grammar, named):
    with pytest.raises(ConfigError, match=named):
        language_of(Grammar(grammar, syntax="lark"))


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        ("start: /a+?/", "lazy"),
        ("start: /^a/", "anchor"),
        ("start: /a(?=b)/", "lookaround"),
        (r"start: /(a)\1/", "backreference"),
        ("%import .secrets.KEY\nstart: KEY", r"%import .secrets.KEY"),
        ("start: A\n%declare A", "terminal A"),
        ('start: a "x" | "y"\na: start | "z"', "begins with itself"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(grammar, named):
    with pytest.raises(UnsupportedConstraintError, match=named):
        language_of(Grammar(grammar, syntax="lark"))


def test_what_is_ignored_may_stand_in_front_of_a_rule_that_begins_with_itself():
    language = language_of(Grammar('start: start "a" | "b"\n%ignore " "', syntax="lark"))
    assert not language.is_clipped
    assert all(language.accepts(text) for text in (b" b a  a ", b"baaaaaaaaaaa"))


def test_the_start_may_be_named():
    assert language_of(Grammar('root: "a"', syntax="lark", start="root")).accepts(b"a")
